"""The shipped patterns: a module for each family of operators, each ending in one ordered tuple."""
