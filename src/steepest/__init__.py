"""Every language-model pretraining optimizer, written once as its paper writes it."""
