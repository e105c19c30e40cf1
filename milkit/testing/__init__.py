"""What a researcher needs to test a model of their own: the contract battery and the algorithmic tests."""
