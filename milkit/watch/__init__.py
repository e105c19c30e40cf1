"""Seeing a study work: what each program writes while it runs, and the table that is made by reading it."""
