// When each phase was worked on: a lane a phase, a bar an attempt.
import { Card, Group, NumberInput, Stack, Table, Text, Title } from "@mantine/core";
import { useMemo, useState } from "react";
import type { PhaseTime } from "../api/client";
import { usePhases } from "../api/queries";
import type { Palette } from "../theme";
import { Chart } from "../ui/Chart";
import { Copy } from "../ui/Copy";
import { clock, duration, plain } from "../ui/format";
import { WideTable } from "../ui/Scroll";
import { Empty, Told } from "../ui/states";
import { usePalette } from "../ui/Status";
import { axes, escaped } from "./plot";
import { SERVICES } from "./series";
import { ServiceKey } from "./ServiceKey";

const SHOWN_STEPS = 5;

export default function Timeline({ run }: { run: string }) {
  const phases = usePhases(run);
  return <Told of={phases}>{(all) => all.length ? <Lanes run={run} all={all} /> : <Empty title="Nothing was worked on yet">The first phase shows here as soon as it is submitted.</Empty>}</Told>;
}

function Lanes({ run, all }: { run: string; all: PhaseTime[] }) {
  const palette = usePalette();
  const newest = Math.max(...all.map((each) => each.step));
  const [chosen, setChosen] = useState<{ from?: number; to?: number }>({});
  const to = chosen.to ?? newest;
  const from = Math.min(chosen.from ?? Math.max(0, to - SHOWN_STEPS + 1), to);
  const shown = useMemo(() => all.filter((each) => each.step >= from && each.step <= to), [all, from, to]);
  const option = useMemo(() => gantt(shown, palette), [shown, palette]);
  const lanes = new Set(shown.map((each) => each.name)).size;
  const failed = shown.filter((each) => each.error);
  return (
    <Stack>
      <Group align="flex-end" justify="space-between">
        <Group>
          <NumberInput label="From step" value={from} min={0} max={newest} onChange={(value) => setChosen({ from: Number(value), to })} w={110} />
          <NumberInput label="To step" value={to} min={0} max={newest} onChange={(value) => setChosen({ from, to: Number(value) })} w={110} />
        </Group>
        <Copy path={`/v1/runs/${run}/phases`} />
      </Group>
      <Card className="card" withBorder p="sm">
        <Title order={2} fz="sm">Phases by time</Title>
        <ServiceKey><Text size="xs" c="dimmed">outlined: it failed, was cancelled, or is in progress</Text></ServiceKey>
        <Chart option={option} label={`Phases of steps ${from} to ${to} by time; the table below has the same in numbers`} height={60 + 24 * lanes} />
      </Card>
      <Totals phases={shown} />
      {failed.length > 0 && (
        <Card className="card" withBorder>
          <Title order={2} fz="sm" mb="xs">Failures</Title>
          <Stack gap={4}>{failed.map((each) => <Text key={`${each.step}${each.name}${each.attempt}`} size="sm">step {each.step}, {plain(each.name)}, attempt {each.attempt} ({each.status}): {each.error}</Text>)}</Stack>
        </Card>
      )}
    </Stack>
  );
}

function gantt(phases: PhaseTime[], palette: Palette) {
  const names = [...new Set(phases.map((each) => each.name))];
  const began = Math.min(...phases.map((each) => each.submitted));
  const now = Date.now() / 1000;
  const rows = phases.map((each) => ({
    value: [names.indexOf(each.name), each.submitted - began, (each.ended ?? now) - began, SERVICES.indexOf(each.service)],
    phase: each,
  }));
  const base = axes(palette, `seconds since ${clock(began)}`, "", undefined, false, false) as Record<string, Record<string, unknown>>;
  return {
    ...base,
    grid: { left: 8, right: 18, top: 8, bottom: 24, containLabel: true },
    xAxis: { ...base.xAxis, axisLabel: { color: palette.soft, fontSize: 11, showMaxLabel: false, formatter: (v: number) => String(Math.round(v)) } },
    legend: { show: false },
    yAxis: { type: "category", data: names.map(plain), inverse: true, axisLabel: { color: palette.text, fontSize: 11 }, axisTick: { show: false }, axisLine: { show: false }, splitLine: { show: true, lineStyle: { color: palette.rule } } },
    tooltip: {
      ...base.tooltip, trigger: "item",
      formatter: ({ data }: { data: { phase: PhaseTime } }) => {
        const { phase } = data;
        const took = (phase.ended ?? now) - phase.submitted;
        const lines = [`step ${phase.step}, <b>${plain(phase.name)}</b>, attempt ${phase.attempt}: ${phase.status}`, `${duration(took)} from submission${phase.seconds == null ? "" : `, ${duration(phase.seconds)} of work`}`, clock(phase.submitted)];
        return [...lines, ...(phase.error ? [escaped(phase.error.slice(0, 160))] : [])].join("<br>");
      },
    },
    series: [{
      type: "custom", clip: true, data: rows, encode: { x: [1, 2], y: 0 },
      renderItem: (_: unknown, api: { value: (n: number) => number; coord: (p: number[]) => [number, number]; size: (p: number[]) => [number, number] } & { currentSeriesIndices?: () => number[] }) => {
        const [x0, y] = api.coord([api.value(1), api.value(0)]);
        const [x1] = api.coord([api.value(2), api.value(0)]);
        const height = Math.min(14, api.size([0, 1])[1] * 0.6);
        const row = rows.find((r) => r.value[1] === api.value(1) && r.value[0] === api.value(0));
        const color = palette.series[api.value(3)] ?? palette.soft;
        const whole = row?.phase.status === "succeeded";
        return { type: "rect", shape: { x: x0, y: y - height / 2, width: Math.max(x1 - x0, 2), height, r: 2 }, style: whole ? { fill: color } : { fill: "transparent", stroke: color, lineWidth: 1.5, lineDash: [3, 2] } };
      },
    }],
  };
}

function Totals({ phases }: { phases: PhaseTime[] }) {
  const by = new Map<string, { service: string; attempts: number; work: number; waited: number; failed: number }>();
  for (const each of phases) {
    const row = by.get(each.name) ?? { service: each.service, attempts: 0, work: 0, waited: 0, failed: 0 };
    row.attempts += 1;
    row.work += each.seconds ?? 0;
    row.waited += each.ended == null || each.seconds == null ? 0 : Math.max(0, each.ended - each.submitted - each.seconds);
    row.failed += each.status === "failed" || each.status === "cleared" ? 1 : 0;
    by.set(each.name, row);
  }
  const whole = [...by.values()].reduce((sum, row) => sum + row.work, 0) || 1;
  return (
    <WideTable label="Seconds by phase" minWidth={480}>
        <Table.Thead><Table.Tr><Table.Th>Phase</Table.Th><Table.Th>Service</Table.Th><Table.Th ta="right">Work</Table.Th><Table.Th ta="right">Share</Table.Th><Table.Th ta="right">Beside it</Table.Th><Table.Th ta="right">Attempts</Table.Th><Table.Th ta="right">Failed</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>{[...by].map(([name, row]) => (
          <Table.Tr key={name} className="num"><Table.Td>{plain(name)}</Table.Td><Table.Td className="nowrap">{row.service}</Table.Td><Table.Td ta="right">{duration(row.work)}</Table.Td><Table.Td ta="right">{((100 * row.work) / whole).toFixed(0)} %</Table.Td><Table.Td ta="right">{duration(row.waited)}</Table.Td><Table.Td ta="right">{row.attempts}</Table.Td><Table.Td ta="right">{row.failed}</Table.Td></Table.Tr>
        ))}</Table.Tbody>
        <Table.Caption>Beside it: queued, polled and read, from submission to record less the work itself.</Table.Caption>
    </WideTable>
  );
}
