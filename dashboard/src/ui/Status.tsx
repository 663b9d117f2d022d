// A run's status and an attempt's outcome: a sign and a word, never a colour alone.
import { Group, Text, useComputedColorScheme } from "@mantine/core";
import type { Outcome } from "../api/client";
import { DARK, LIGHT } from "../theme";
import { plain } from "./format";

export function usePalette() {
  return useComputedColorScheme("light") === "dark" ? DARK : LIGHT;
}

const STATUS: Record<string, { sign: string; series: number }> = {
  queued: { sign: "◌", series: 5 }, running: { sign: "●", series: 0 }, paused: { sign: "❚❚", series: 4 },
  succeeded: { sign: "✓", series: 2 }, failed: { sign: "✕", series: 1 }, cancelled: { sign: "–", series: 5 },
};

export function Status({ status }: { status: string }) {
  const palette = usePalette();
  const { sign, series } = STATUS[status] ?? { sign: "?", series: 5 };
  return (
    <Group gap={6} wrap="nowrap" component="span" display="inline-flex">
      <Text span c={palette.series[series]} fw={700} size="sm" aria-hidden>{sign}</Text>
      <Text span size="sm">{status}</Text>
    </Group>
  );
}

/** What a run's `error` is: of a failure only where it failed. An alarm asks for a pause, which comes a little later. */
export function errorTitle(status: string): string {
  if (status === "failed") return "Failed";
  if (status === "paused") return "Paused by an alarm";
  return status === "running" || status === "queued" ? "An alarm: it pauses soon" : "What was said last";
}

const OUTCOME: Record<Outcome, { sign: string; series: number }> = {
  passed: { sign: "✓", series: 2 }, failed: { sign: "✕", series: 1 }, timeout: { sign: "T", series: 4 },
  memory: { sign: "M", series: 4 }, output_limit: { sign: "L", series: 4 }, format: { sign: "F", series: 3 },
  infra_error: { sign: "!", series: 5 },
};
export const OUTCOMES = Object.keys(OUTCOME) as Outcome[];

export function outcomeStyle(outcome: Outcome | null | undefined, series: string[]) {
  const of = outcome ? OUTCOME[outcome] : { sign: "·", series: 5 };
  const color = series[of.series] ?? "gray";
  return { sign: of.sign, color, style: { color, borderColor: color, background: `color-mix(in srgb, ${color} 14%, transparent)` } };
}

export function Verdict({ outcome, reward }: { outcome: Outcome | null | undefined; reward?: number | null }) {
  const { series } = usePalette();
  const { sign, style } = outcomeStyle(outcome, series);
  return (
    <Group gap={6} wrap="nowrap" display="inline-flex">
      <span className="cell" style={style} aria-hidden>{sign}</span>
      <Text span size="sm">{outcome ? plain(outcome) : "not judged yet"}</Text>
      {reward != null && reward !== 0 && reward !== 1 && <Text span size="sm" c="dimmed" className="num">reward {reward.toFixed(2)}</Text>}
    </Group>
  );
}
