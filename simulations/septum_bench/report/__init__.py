"""The report: one self-contained HTML file for a radiologist and a privacy officer."""

from septum_bench.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
