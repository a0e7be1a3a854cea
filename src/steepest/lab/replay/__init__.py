"""Published studies judged anew from their released numbers, with the estimators that judge own studies."""
