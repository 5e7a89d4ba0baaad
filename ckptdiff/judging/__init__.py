"""Outcome → Report: the rule table, the findings, the verdict."""
