"""A run's report: figures from a `ReportView`, drawn as a self-contained page."""

from pmd.gateway.report.html import render_compare, render_html

__all__ = ["render_compare", "render_html"]
