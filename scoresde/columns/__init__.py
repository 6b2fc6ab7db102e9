"""Columns of a table: numbers, bounded or missing, and categories, as vectors in model units."""

from scoresde.columns.category import CODINGS, Category
from scoresde.columns.number import Number
from scoresde.columns.table import Column, TableScaling

__all__ = ["CODINGS", "Category", "Column", "Number", "TableScaling"]
