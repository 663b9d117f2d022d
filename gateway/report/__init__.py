"""A run's report: figures from a `ReportView`, drawn for the terminal and as a self-contained page."""

from gateway.report.html import render_compare, render_html
from gateway.report.terminal import render_compare_terminal, render_terminal

__all__ = ["render_compare", "render_compare_terminal", "render_html", "render_terminal"]
