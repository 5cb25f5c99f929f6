"""What the dashboards are made of: a chart in words and PromQL, and how it becomes a dashboard of Grafana 11."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
WIDTHS = {"lines": 12, "stacked": 12, "number": 6}
HEIGHTS = {"lines": 8, "stacked": 8, "number": 4}

WINDOW = "[5m]"
"""Over which rates and percentiles are taken: enough points at any interval of scraping up to a minute."""


@dataclass(frozen=True, slots=True)
class Chart:
    """`queries` are PromQL and the legend of their lines. `unit` is one of Grafana's. `kind` is one of `WIDTHS`."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "lines"


@dataclass(frozen=True, slots=True)
class Page:
    """A dashboard: charts under headings."""

    uid: str
    title: str
    description: str
    sections: tuple[tuple[str, tuple[Chart, ...]], ...]


def percentiles(
    metric: str, by: str = "", quantiles: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[tuple[str, str], ...]:
    """Queries for a histogram's percentiles, apart by the label `by` if given."""
    labels, name = ("le", "") if not by else (f"le, {by}", f" {{{{{by}}}}}")
    return tuple(
        (
            f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{WINDOW})))",
            f"p{quantile * 100:g}{name}",
        )
        for quantile in quantiles
    )


def rate(metric: str, by: str, selector: str = "") -> tuple[tuple[str, str], ...]:
    """One query: a counter's growth by second, apart by a label."""
    return ((f"sum by ({by}) (rate({metric}{selector}{WINDOW}))", f"{{{{{by}}}}}"),)


def share(part: str, whole: str, by: str = "") -> str:
    """PromQL: how much of one counter's growth another is, 0 where there is none; apart by a label if given."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({part}{WINDOW})) / clamp_min({grouped} (rate({whole}{WINDOW})), 0.001)"


def build(page: Page) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags(["mlx-gateway"])
        .time("now-1h", "now")
        .refresh("10s")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("source").label("Data source").type("prometheus"))
    )
    for heading, charts in page.sections:
        built.with_row(dashboard.Row(heading))
        for chart in charts:
            built.with_panel(_panel(chart))
    return built


def _panel(chart: Chart) -> stat.Panel | timeseries.Panel:
    panel = stat.Panel() if chart.kind == "number" else _lines(stacked=chart.kind == "stacked")
    panel.title(chart.title).description(chart.description).unit(chart.unit).datasource(SOURCE)
    panel.span(WIDTHS[chart.kind]).height(HEIGHTS[chart.kind])
    for index, (expression, legend) in enumerate(chart.queries):
        panel.with_target(
            prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + index)).range()
        )
    return panel


def _lines(*, stacked: bool) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = timeseries.Panel().min(0).legend(legend.placement(LegendPlacement.BOTTOM))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    return panel
