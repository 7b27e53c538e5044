"""Reports: figures, picture strips and one HTML page, all from plain numbers."""

from __future__ import annotations

from cosphere.report.data import ReportData, Skipped, report_data_from_run
from cosphere.report.page import write_report
from cosphere.report.strip import StripItem, neighbour_strip

__all__ = ["ReportData", "Skipped", "StripItem", "neighbour_strip", "report_data_from_run", "write_report"]
