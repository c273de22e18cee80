"""What a test of ctxlog, or of something that builds on it, can start from. Not imported by the library itself."""
