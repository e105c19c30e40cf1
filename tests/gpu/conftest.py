"""The planted studies are those of all tests."""
