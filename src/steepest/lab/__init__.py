"""The lab: corpus, batches, model, train, record, race, analysis, report."""
