"""What training takes in memory, told before any of it is allocated: models, plans, ways of counting."""
