"""Views of a log in DuckDB: made from its records exactly once, published for analysts while they are written."""
