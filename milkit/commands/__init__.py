"""One command a file; each is imported only when it is called, so that `milkit --help` stays fast."""
