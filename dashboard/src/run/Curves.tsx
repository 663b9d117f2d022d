// What a run learnt, step by step: linked charts over one interval.
import { Button, Card, Group, RangeSlider, SimpleGrid, Slider, Stack, Text, Title } from "@mantine/core";
import { useCallback, useMemo, useState } from "react";
import { Link, useSearchParams } from "react-router-dom";
import type { Run, RunEvent, Step } from "../api/client";
import { useSteps } from "../api/queries";
import { Chart, type Interval } from "../ui/Chart";
import { Copy } from "../ui/Copy";
import { duration, plain } from "../ui/format";
import { Empty, Told } from "../ui/states";
import { usePalette } from "../ui/Status";
import { ServiceKey } from "./ServiceKey";
import { axes, MARKS, plot, type PlotSettings } from "./plot";
import { accuracy, infraShare, line, marks as marksOf, meanTokens, phaseSeconds, serviceOf, SERVICES, truncatedShare, type Line, type Mark } from "./series";

type Figure = { title: string; about: string; lines: Line[] } & Pick<PlotSettings, "unit" | "share" | "zero" | "dots">;

const LEVELS = ["experience", "insight", "behavior"] as const;

function figures(steps: Step[]): Figure[] {
  const train = (key: string) => (step: Step) => step.train[key];
  return [
    { title: "Accuracy", about: "of the policy without memory, by split; the band is 95 % for as many problems", lines: accuracy(steps), share: true, dots: true },
    { title: "Student and teacher", about: "rollouts that pass: alone, and with the teacher's context", share: true, lines: [line("student", steps, (s) => s.pass_rate), line("teacher (probe)", steps, (s) => s.probe_pass_rate), line("reward", steps, (s) => s.reward, { dashed: true })] },
    { title: "Teacher's lead", about: "running mean of the gate; at 0 memory knows no better", share: true, lines: [line("lead", steps, (s) => s.lead), line("learning rate, of full", steps, (s) => s.lr_scale, { dashed: true })] },
    { title: "Loss", about: "of the training step", lines: [line("loss", steps, train("loss"))] },
    { title: "Mismatch", about: "sampler against trainer; high means that they disagree about the weights", unit: "nats a token", zero: true, lines: [line("mismatch", steps, train("mismatch_kl"))] },
    { title: "Entropy", about: "of the policy", unit: "nats a token", lines: [line("entropy", steps, train("entropy"))] },
    { title: "Gradient norm", about: "largest of the step, before clipping", lines: [line("gradient norm", steps, train("grad_norm"))] },
    { title: "Length", about: "mean of the training rollouts", unit: "tokens", lines: [line("length", steps, meanTokens)] },
    { title: "Cut short and not judged", about: "rollouts that ended by length; rollouts lost to infrastructure", share: true, zero: true, lines: [line("truncated", steps, truncatedShare), line("infra_error", steps, infraShare)] },
    { title: "Memory", about: "active items by level", unit: "items", zero: true, lines: LEVELS.map((level) => line(level, steps, (s) => s.memory?.[level])) },
  ].filter((figure) => figure.lines.some((each) => each.points.length));
}

export function Curves({ run, events }: { run: Run; events: RunEvent[] }) {
  const steps = useSteps(run.id);
  return <Told of={steps} rows={8}>{(data) => data.length ? <Board run={run} steps={data} marks={marksOf(events)} /> : (
    <Empty title="No step is recorded yet">The base model is scored first (step 0); what is going on now stands above and in the <Link to={`/runs/${run.id}/log`}>log</Link>.</Empty>
  )}</Told>;
}

function Board({ run, steps, marks }: { run: Run; steps: Step[]; marks: Mark[] }) {
  const palette = usePalette();
  const [params, setParams] = useSearchParams();
  const newest = steps.at(-1)?.step ?? 0;
  const end = Math.max(newest, 1);
  const given = params.get("steps")?.split("-").map(Number);
  const from = given?.[0] ?? 0;
  const to = Math.min(given?.[1] ?? end, end);
  const [smooth, setSmooth] = useState(0);
  const setInterval = useCallback((next: Interval) => {
    const low = Math.max(0, Math.floor(next[0])), high = Math.min(end, Math.ceil(next[1]));
    setParams((old) => {
      const fresh = new URLSearchParams(old);
      if (high - low < 1 || (low === 0 && high === end)) fresh.delete("steps");
      else fresh.set("steps", `${low}-${high}`);
      return fresh;
    }, { replace: true });
  }, [end, setParams]);
  const all = useMemo(() => figures(steps), [steps]);
  const drawn = useMemo(
    () => all.map((figure) => ({ figure, option: plot({ palette, interval: [from, to], smooth: figure.title === "Accuracy" ? 0 : smooth, marks, ...figure }) })),
    [all, palette, from, to, smooth, marks],
  );
  const chosen = steps.filter((step) => step.step >= from && step.step <= to);
  const happened = marks.filter((mark) => mark.step >= from && mark.step <= to);
  return (
    <Stack>
      <Card className="card" withBorder py="xs">
        <Group gap="xl" align="flex-end">
          <div style={{ flex: "1 1 280px" }}>
            <Group justify="space-between"><Text size="sm" id="interval">Steps {from} to {to}</Text>
              <Text size="xs" c="dimmed" visibleFrom="md">drag over a chart to choose an interval; all of them follow</Text></Group>
            <RangeSlider min={0} max={end} minRange={1} value={[from, to]} onChange={setInterval} label={null} thumbFromLabel="First step" thumbToLabel="Last step" my={6} />
          </div>
          <div style={{ flex: "0 1 200px", minWidth: 150 }}>
            <Text size="sm">Smoothing {smooth ? smooth.toFixed(2) : "off"}</Text>
            <Slider min={0} max={0.95} step={0.05} value={smooth} onChange={setSmooth} label={null} thumbLabel="Smoothing" my={6} />
          </div>
          <Group gap="xs"><Button variant="default" disabled={from === 0 && to === end} onClick={() => setInterval([0, end])}>All steps</Button><Copy path={`/v1/runs/${run.id}/steps`} /></Group>
        </Group>
      </Card>
      <SimpleGrid cols={{ base: 1, sm: 2, xl: 3 }} spacing="sm">
        {drawn.map(({ figure, option }) => (
          <Card key={figure.title} className="card" withBorder p="sm">
            <Title order={2} fz="sm">{figure.title}</Title>
            <Text size="xs" c="dimmed" mb={4}>{figure.about}</Text>
            <Chart option={option} label={described(figure, from, to)} group={`run-${run.id}`} onInterval={setInterval} />
          </Card>
        ))}
        <Seconds steps={chosen} />
      </SimpleGrid>
      {happened.length > 0 && (
        <Card className="card" withBorder>
          <Title order={2} fz="sm" mb="xs">What happened in these steps</Title>
          <Stack gap={4}>{happened.slice(-40).map((mark, n) => (
            <Text key={n} size="sm"><span aria-hidden>{MARKS[mark.what]} </span>step {mark.step}: {mark.text}</Text>
          ))}</Stack>
        </Card>
      )}
    </Stack>
  );
}

/** A chart in words, for who can't see it. */
function described(figure: Figure, from: number, to: number): string {
  const ends = figure.lines.map((each) => {
    const inside = each.points.filter(([step]) => step >= from && step <= to);
    const tell = (v: number | undefined) => (v == null ? "nothing" : figure.share ? `${(100 * v).toFixed(1)} percent` : String(Number(v.toPrecision(3))));
    return inside.length ? `${each.name} from ${tell(inside[0]?.[1])} to ${tell(inside.at(-1)?.[1])}` : `${each.name}: nothing recorded`;
  });
  return `${figure.title}, steps ${from} to ${to}: ${ends.join("; ")}`;
}

function Seconds({ steps }: { steps: Step[] }) {
  const palette = usePalette();
  const option = useMemo(() => {
    const { names, rows } = phaseSeconds(steps.filter((step) => step.step > 0));
    const base = axes(palette, "step", "seconds", undefined, false, false) as Record<string, Record<string, unknown>>;
    return {
      ...base,
      xAxis: { ...base.xAxis, type: "category", data: rows.map((row) => row.step), min: undefined, max: undefined },
      tooltip: { ...base.tooltip, axisPointer: { type: "shadow" }, valueFormatter: (v: number) => duration(v) },
      yAxis: { ...base.yAxis, scale: false, min: 0 },
      legend: { show: false },
      series: [...names].sort((a, b) => SERVICES.indexOf(serviceOf(a)) - SERVICES.indexOf(serviceOf(b))).map((name) => ({
        type: "bar", stack: "all", name: plain(name), data: rows.map((row) => row.seconds[name] ?? 0), barCategoryGap: "15%",
        itemStyle: { color: palette.series[SERVICES.indexOf(serviceOf(name))], borderColor: palette.card, borderWidth: 1 },
      })),
    };
  }, [steps, palette]);
  return (
    <Card className="card" withBorder p="sm">
      <Title order={2} fz="sm">Seconds by phase</Title>
      <Text size="xs" c="dimmed" mb={4}>what services worked; when, and what waited, is in the <Link to="timeline">timeline</Link></Text>
      <ServiceKey />
      <Chart height={200} option={option} label="Seconds by phase of each step" />
    </Card>
  );
}
