"""Faces of ctxlog towards frameworks for agents: one package a framework, each behind an extra of its own."""
