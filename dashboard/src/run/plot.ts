// ECharts options: one look for all charts.
import type { EChartsCoreOption } from "echarts/core";
import type { Palette } from "../theme";
import { short } from "../ui/format";
import { smoothed, type Line, type Mark } from "./series";

export const MARKS: Record<Mark["what"], string> = { edit: "✎", pause: "❚❚", failure: "✕", alarm: "⚠" };

type Extent = { min: number; max: number };

/** Ends of a vertical axis that has shares: what is all alike gets room, so that 0 % is not drawn on an axis to 120 %. */
function bounds(lines: Line[], share: boolean): Partial<Extent> {
  if (!share) return {};
  const bands = lines.flatMap((each) => each.band ?? []);
  if (bands.length) {
    const [low, high] = [Math.min(...bands.map(([, y]) => y)), Math.max(...bands.map(([, , y]) => y))];
    return { min: Math.floor(10 * low) / 10, max: Math.ceil(10 * high) / 10 };
  }
  const values = lines.flatMap((each) => each.points.map(([, y]) => y));
  const low = Math.min(...values), high = Math.max(...values);
  if (!values.length || high - low > 0.04) return high > 0.8 && high <= 1 ? { max: 1 } : {};
  return { min: Math.max(0, Math.floor(50 * low - 0.5) / 50), max: Math.min(1, Math.ceil(50 * high + 0.5) / 50) };
}

export type PlotSettings = {
  palette: Palette; lines: Line[]; unit?: string; xName?: string; interval?: [number, number]; smooth?: number;
  marks?: Mark[]; share?: boolean; log?: boolean; zero?: boolean; dots?: boolean;
};

export function axes(palette: Palette, xName: string, unit: string, interval: [number, number] | undefined, share: boolean, log: boolean): EChartsCoreOption {
  const axisLabel = { color: palette.soft, fontSize: 11, hideOverlap: true };
  const nameTextStyle = { color: palette.soft, fontSize: 11 };
  return {
    grid: { left: 8, right: 18, top: 34, bottom: 22, containLabel: true },
    xAxis: {
      type: "value", name: xName, nameLocation: "middle", nameGap: 22, nameTextStyle, axisLabel, minInterval: xName === "step" ? 1 : 0,
      min: interval?.[0] ?? ((v: Extent) => (v.min === v.max ? v.min - 1 : v.min)), max: interval?.[1] ?? "dataMax",
      axisLine: { lineStyle: { color: palette.rule } }, axisTick: { show: false }, splitLine: { show: false },
    },
    yAxis: {
      type: log ? "log" : "value", scale: true, name: unit, nameTextStyle: { ...nameTextStyle, align: "left" }, nameGap: 10, splitNumber: 4,
      axisLabel: { ...axisLabel, formatter: (v: number) => (share ? String(Number((100 * v).toFixed(1))) : short(v)) },
      splitLine: { lineStyle: { color: palette.rule } }, axisLine: { show: false }, axisTick: { show: false },
    },
    legend: { type: "scroll", top: 0, right: 0, left: "22%", align: "left", icon: "roundRect", itemWidth: 12, itemHeight: 4, textStyle: { color: palette.text, fontSize: 11 }, pageIconColor: palette.soft, pageTextStyle: { color: palette.soft } },
    tooltip: {
      trigger: "axis", confine: true, backgroundColor: palette.card, borderColor: palette.rule, padding: 8,
      textStyle: { color: palette.text, fontSize: 12 }, axisPointer: { type: "line", lineStyle: { color: palette.soft } },
    },
  };
}

export function plot({ palette, lines, unit = "", xName = "step", interval, smooth = 0, marks = [], share = false, log = false, zero = false, dots = false }: PlotSettings): EChartsCoreOption {
  const base = axes(palette, xName, share ? "%" : unit, interval, share, log) as Record<string, Record<string, unknown>>;
  const value = (v: number) => (share ? `${(100 * v).toFixed(1)} %` : short(v));
  const series: Record<string, unknown>[] = [];
  const named = new Set<string>();
  lines.forEach((each, n) => {
    const color = palette.series[n % palette.series.length];
    named.add(each.name);
    if (each.band?.length) {
      series.push({
        type: "custom", name: `${each.name} interval`, silent: true, z: 1, tooltip: { show: false }, data: [each.band],
        renderItem: (_: unknown, api: { coord: (p: number[]) => number[] }) => ({
          type: "polygon", silent: true,
          shape: { points: [...each.band!.map(([x, , high]) => api.coord([x, high])), ...[...each.band!].reverse().map(([x, low]) => api.coord([x, low]))] },
          style: { fill: color, opacity: 0.13 },
        }),
        clip: true,
      });
    }
    const few = dots || each.points.length < 12;
    if (smooth > 0 && each.points.length > 2)
      series.push({ type: "line", name: `${each.name} as recorded`, data: each.points, showSymbol: false, silent: true, lineStyle: { width: 1, color, opacity: 0.25 }, itemStyle: { color }, tooltip: { show: false }, z: 2 });
    series.push({
      type: "line", name: each.name, data: smooth > 0 ? smoothed(each.points, smooth) : each.points, showSymbol: few, symbol: "circle", symbolSize: 5, z: 3,
      lineStyle: { width: 2, color, type: each.dashed ? "dashed" : "solid" }, itemStyle: { color }, emphasis: { disabled: true },
    });
  });
  if (marks.length)
    series.push({
      type: "line", name: "marks", data: [], tooltip: { show: false }, silent: true,
      markLine: {
        silent: true, symbol: "none", animation: false, lineStyle: { color: palette.mark, type: "dotted", width: 1 },
        label: { color: palette.mark, fontSize: 11, formatter: (p: { name: string }) => p.name, position: "end", distance: 1 },
        data: marks.map((mark) => ({ xAxis: mark.step, name: MARKS[mark.what] })),
      },
    });
  const formatter = (points: { seriesName: string; value: number[]; marker: string; axisValue: number }[]) => {
    const shown = points.filter((p) => named.has(p.seriesName));
    if (!shown.length) return "";
    const rows = shown.map((p) => `${p.marker}${p.seriesName} <b>${value(p.value[1]!)}</b>`);
    const happened = marks.filter((mark) => mark.step === shown[0]!.axisValue).map((mark) => `${MARKS[mark.what]} ${escaped(mark.text.slice(0, 90))}`);
    return [`${xName} ${short(shown[0]!.axisValue)}`, ...rows, ...new Set(happened)].join("<br>");
  };
  return {
    ...base,
    legend: { ...base.legend, data: lines.map((each) => each.name), show: lines.length > 1 },
    yAxis: { ...base.yAxis, ...(zero ? { min: 0 } : {}), ...bounds(lines, share) },
    tooltip: { ...base.tooltip, formatter },
    series,
  };
}

/** What people and models wrote is text, not markup. */
export const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
