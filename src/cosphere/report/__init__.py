"""Reports: figures, picture strips and one HTML page, from the numbers of an evaluation."""

from __future__ import annotations

from cosphere.report.data import ReportData, report_data_from_run
from cosphere.report.page import write_report
from cosphere.report.strip import StripItem, neighbour_strip

__all__ = ["ReportData", "StripItem", "neighbour_strip", "report_data_from_run", "write_report"]
