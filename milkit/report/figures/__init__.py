"""The drawings of a report; matplotlib is imported only when one is made."""
