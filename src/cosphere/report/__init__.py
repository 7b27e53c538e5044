"""Reports: figures, picture strips and one HTML page, from the numbers of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily

if TYPE_CHECKING:
    from cosphere.report.audit import write_audit as write_audit
    from cosphere.report.data import ReportData as ReportData
    from cosphere.report.data import report_data_from_run as report_data_from_run
    from cosphere.report.page import write_report as write_report
    from cosphere.report.sphere import SphereRun as SphereRun
    from cosphere.report.sphere import write_sphere as write_sphere
    from cosphere.report.strip import StripItem as StripItem
    from cosphere.report.strip import neighbour_strip as neighbour_strip
    from cosphere.report.study import write_study_report as write_study_report
else:
    __getattr__ = lazily(
        __name__,
        {
            "write_audit": "cosphere.report.audit",
            "ReportData": "cosphere.report.data",
            "report_data_from_run": "cosphere.report.data",
            "write_report": "cosphere.report.page",
            "SphereRun": "cosphere.report.sphere",
            "write_sphere": "cosphere.report.sphere",
            "StripItem": "cosphere.report.strip",
            "neighbour_strip": "cosphere.report.strip",
            "write_study_report": "cosphere.report.study",
        },
    )

__all__ = [
    "ReportData",
    "SphereRun",
    "StripItem",
    "neighbour_strip",
    "report_data_from_run",
    "write_audit",
    "write_report",
    "write_sphere",
    "write_study_report",
]
