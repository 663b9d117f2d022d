// Runs over each other, by step, rollouts or seconds of work; and where their recipes differ.
import { Card, Group, SegmentedControl, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { useQueries } from "@tanstack/react-query";
import { useMemo } from "react";
import { Link, useSearchParams } from "react-router-dom";
import { api, told, type Schemas, type Step } from "../api/client";
import { flat } from "../run/Recipe";
import { plot } from "../run/plot";
import { rollouts, wilson, type Line, type Point } from "../run/series";
import { Chart } from "../ui/Chart";
import { Copy } from "../ui/Copy";
import { percent } from "../ui/format";
import { WideTable } from "../ui/Scroll";
import { Empty, Failure, Loading } from "../ui/states";
import { usePalette } from "../ui/Status";

type Report = Schemas["ReportView"];
type By = "step" | "rollouts" | "seconds of work";
const BY: By[] = ["step", "rollouts", "seconds of work"];

/** Where each step stands on the axis: sums of what was drawn, or worked, up to it. */
function places(steps: Step[], by: By): number[] {
  let sum = 0;
  return steps.map((step) => {
    if (by === "step") return step.step;
    sum += by === "rollouts" ? rollouts(step) : Object.values(step.seconds).reduce((all, each) => all + each, 0);
    return sum;
  });
}

function lineOf(report: Report, by: By, value: (step: Step) => { y: number; n?: number } | null): Line {
  const at = places(report.steps, by);
  const points: Point[] = [];
  const band: [number, number, number][] = [];
  report.steps.forEach((step, n) => {
    const found = value(step);
    if (!found) return;
    points.push([at[n]!, found.y]);
    if (found.n) band.push([at[n]!, ...wilson(found.y, found.n)]);
  });
  return { name: report.run.id, points, band };
}

export default function ComparePage() {
  const [params, setParams] = useSearchParams();
  const ids = params.getAll("run").slice(0, 7);
  const by = (BY.includes(params.get("by") as By) ? params.get("by") : "step") as By;
  const palette = usePalette();
  const found = useQueries({
    queries: ids.map((run) => ({
      queryKey: ["report", run],
      queryFn: () => told(api.GET("/v1/runs/{run}/report", { params: { path: { run } } })),
      staleTime: 30_000,
    })),
  });
  const reports = found.flatMap((each) => (each.data ? [each.data] : []));
  const failed = found.find((each) => each.isError);
  const key = reports.map((r) => `${r.run.id}:${r.steps.length}`).join();
  const charts = useMemo(() => {
    const splits = [...new Set(reports.flatMap((r) => r.steps.flatMap((s) => Object.keys(s.evaluation))))].sort();
    const made = splits.map((split) => ({ title: `Accuracy, ${split}`, lines: reports.map((r) => lineOf(r, by, (s) => (s.evaluation[split] ? { y: s.evaluation[split].pass_rate, n: s.evaluation[split].problems } : null))) }));
    const passed = { title: "Passed in training", lines: reports.map((r) => lineOf(r, by, (s) => (s.pass_rate == null ? null : { y: s.pass_rate }))) };
    return [...made, passed].map(({ title, lines }) => ({ title, lines, option: plot({ palette, lines, share: true, xName: by }) }));
    // eslint-disable-next-line -- reports are named by `key`
  }, [key, by, palette]);
  if (ids.length < 2) return <Empty title="Choose two runs or more">Tick them in the <Link to="/">list of runs</Link>, then press Compare.</Empty>;
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1}>Compare {ids.length} runs</Title>
        <Group gap="xs"><SegmentedControl value={by} onChange={(value) => setParams((old) => { old.set("by", value); return old; }, { replace: true })} data={BY} aria-label="Horizontal axis" /><Copy path={`/v1/runs/${ids[0]}/report`} rows="steps" /></Group>
      </Group>
      {reports.length < ids.length && reports.length > 0 && !failed && <Text size="sm" c="dimmed" role="status">{reports.length} of {ids.length} runs are here…</Text>}
      {failed && <Failure error={failed.error} again={() => void failed.refetch()} />}
      {!reports.length && !failed ? <Loading /> : (
        <>
          <SimpleGrid cols={{ base: 1, md: 2, xl: 3 }} spacing="sm">
            {charts.map(({ title, lines, option }) => (
              <Card key={title} className="card" withBorder p="sm">
                <Title order={2} fz="sm" mb={4}>{title}</Title>
                <Chart option={option} height={260} group={`compare-${by}`} label={`${title} by ${by}: ${lines.map((l) => `${l.name} ends at ${percent(l.points.at(-1)?.[1])}`).join("; ")}`} />
              </Card>
            ))}
          </SimpleGrid>
          <Text size="xs" c="dimmed">Bands: 95 %, for as many problems as were scored. Seeds and worlds differ more than that; <code>pmd compare</code> tests over several runs.</Text>
          {reports.length === ids.length && <Differences reports={reports} />}
        </>
      )}
    </Stack>
  );
}

function Differences({ reports }: { reports: Report[] }) {
  const trees = reports.map((report) => new Map(flat(report.recipe)));
  const keys = [...new Set(trees.flatMap((tree) => [...tree.keys()]))].filter((key) => new Set(trees.map((tree) => tree.get(key))).size > 1);
  return (
    <div>
      <Title order={2} mb="xs">Where the recipes differ</Title>
      {!keys.length ? <Text c="dimmed">Nowhere: the same recipe.</Text> : (
        <WideTable label="Where the recipes differ" minWidth={500}>
          <Table.Thead><Table.Tr><Table.Th>Key</Table.Th>{reports.map((r) => <Table.Th key={r.run.id}><Link to={`/runs/${r.run.id}`}>{r.run.id}</Link></Table.Th>)}</Table.Tr></Table.Thead>
          <Table.Tbody>{keys.map((key) => <Table.Tr key={key}><Table.Th scope="row" fw={500}>{key}</Table.Th>{trees.map((tree, n) => <Table.Td key={n}><Text size="sm" ff="monospace" lineClamp={3}>{tree.get(key) ?? "–"}</Text></Table.Td>)}</Table.Tr>)}</Table.Tbody>
        </WideTable>
      )}
    </div>
  );
}
