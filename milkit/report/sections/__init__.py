"""What stands on the page, section by section; each function turns a `Source` into blocks."""
