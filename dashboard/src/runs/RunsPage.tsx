// All runs: what each learnt, where it stands, and why it waits.
import { Badge, Button, Checkbox, Group, Pagination, Progress, Select, Stack, Table, Text, TextInput, Title, VisuallyHidden } from "@mantine/core";
import { useMediaQuery } from "@mantine/hooks";
import { Link, useNavigate, useSearchParams } from "react-router-dom";
import type { Run } from "../api/client";
import { useCurves, useDisk, useRuns } from "../api/queries";
import { Copy } from "../ui/Copy";
import { ago, bytes, percent } from "../ui/format";
import { Sparkline } from "../ui/Sparkline";
import { WideTable } from "../ui/Scroll";
import { Empty, Told } from "../ui/states";
import { Status } from "../ui/Status";

const PAGE = 50;
const STATUSES = ["queued", "running", "paused", "succeeded", "failed", "cancelled"];

function Disk({ run }: { run: string }) {
  const disk = useDisk(run);
  return <Text size="sm" className="num nowrap">{disk.data ? bytes(disk.data.bytes) : disk.isError ? "–" : "…"}</Text>;
}

/** Why a run does not go on, or what people should know of it. */
export function Why({ run }: { run: Run }) {
  const said = run.error ?? run.waiting;
  if (said) return <Text size="sm">{run.waiting && !run.error ? `waits${run.waiting_since ? ` since ${ago(run.waiting_since)}` : ""}: ` : ""}{said}</Text>;
  const first = run.warnings[0];
  if (first) return <Text size="sm" c="dimmed" lineClamp={2} title={run.warnings.join("\n")}>{first}</Text>;
  return null;
}

export function RunsPage() {
  const runs = useRuns();
  const [params, setParams] = useSearchParams();
  const navigate = useNavigate();
  const q = params.get("q") ?? "";
  const status = params.get("status");
  const page = Number(params.get("page") ?? 1);
  const chosen = params.getAll("with");
  const put = (name: string, value: string | null) => {
    const next = new URLSearchParams(params);
    if (value) next.set(name, value);
    else next.delete(name);
    if (name !== "page") next.delete("page");
    setParams(next, { replace: true });
  };
  const choose = (run: string, on: boolean) => {
    const next = new URLSearchParams(params);
    next.delete("with");
    for (const each of on ? [...chosen, run] : chosen.filter((id) => id !== run)) next.append("with", each);
    setParams(next, { replace: true });
  };
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1}>Runs</Title>
        <Group gap="xs">
          <Button variant={chosen.length > 1 ? "filled" : "default"} disabled={chosen.length < 2}
            onClick={() => navigate(`/compare?${chosen.map((id) => `run=${encodeURIComponent(id)}`).join("&")}`)}>
            {chosen.length > 1 ? `Compare ${chosen.length}` : "Compare (tick two)"}
          </Button>
          <Copy path="/v1/runs?limit=500" />
        </Group>
      </Group>
      <Group>
        <TextInput aria-label="Filter by name, method or model" placeholder="Name, method, model" value={q} onChange={(e) => put("q", e.currentTarget.value)} w={{ base: "100%", xs: 260 }} />
        <Select aria-label="Filter by status" placeholder="Any status" data={STATUSES} value={status} onChange={(value) => put("status", value)} clearable clearButtonProps={{ "aria-label": "Any status" }} w={{ base: "100%", xs: 160 }} />
      </Group>
      <Told of={runs}>
        {(all) => {
          const words = q.toLowerCase().split(/\s+/).filter(Boolean);
          const found = all.filter((run) => (!status || run.status === status) && words.every((w) => `${run.id} ${run.name} ${run.method} ${run.model ?? ""}`.toLowerCase().includes(w)));
          if (!all.length) return <Empty title="No run yet">Start one: <code>pmd runs create recipes/pocket.yaml</code>. It takes minutes on two CPU cores, and shows here at once. A recipe of your own: <code>pmd init</code>.</Empty>;
          if (!found.length) return <Empty title="No run matches">Take a word out of the filter, or choose another status.</Empty>;
          const pages = Math.ceil(found.length / PAGE);
          const shown = found.slice((page - 1) * PAGE, page * PAGE);
          return (
            <>
              <RunTable runs={shown} chosen={chosen} choose={choose} />
              {pages > 1 && <Pagination total={pages} value={page} onChange={(n) => put("page", String(n))} getControlProps={(control) => ({ "aria-label": `${control} page` })} />}
            </>
          );
        }}
      </Told>
    </Stack>
  );
}

type TableProps = { runs: Run[]; chosen: string[]; choose: (run: string, on: boolean) => void };

function curveLines(curve: { pass_rate: [number, number][]; accuracy: Record<string, [number, number][]> } | undefined) {
  const accuracy = Object.entries(curve?.accuracy ?? {}).map(([name, points]) => ({ name, points }));
  return accuracy.some((line) => line.points.length > 1) ? accuracy : [{ name: "training", points: curve?.pass_rate ?? [] }];
}

function RunTable({ runs, chosen, choose }: TableProps) {
  const curves = useCurves(runs.map((run) => run.id));
  const narrow = useMediaQuery("(max-width: 62em)");
  const curve = (run: Run) => curves.data?.get(run.id) as Parameters<typeof curveLines>[0];
  const newest = (run: Run) => Object.entries(curve(run)?.accuracy ?? {}).map(([split, points]) => `${split} ${percent(points.at(-1)?.[1])}`).join(", ");
  if (narrow)
    return (
      <Stack gap="xs">
        {runs.map((run) => (
          <Stack key={run.id} className="card" p="sm" gap={6}>
            <Group justify="space-between" wrap="nowrap">
              <Link to={`/runs/${run.id}`}><b>{run.id}</b></Link>
              <Checkbox aria-label={`Compare ${run.id}`} checked={chosen.includes(run.id)} onChange={(e) => choose(run.id, e.currentTarget.checked)} />
            </Group>
            <Group gap="sm"><Status status={run.status} /><Badge variant="default" tt="none">{run.method}</Badge><Text size="sm" className="num">step {run.step} of {run.steps}</Text><Disk run={run.id} /></Group>
            <Group gap="sm"><Sparkline lines={curveLines(curve(run))} steps={run.steps} /><Text size="sm" c="dimmed" className="num">{newest(run)}</Text></Group>
            <Why run={run} />
          </Stack>
        ))}
      </Stack>
    );
  return (
      <WideTable label="Runs" minWidth={900} verticalSpacing="xs" horizontalSpacing="md">
        <Table.Thead>
          <Table.Tr>
            <Table.Th w={40}><VisuallyHidden>Compare</VisuallyHidden></Table.Th>
            <Table.Th>Run</Table.Th><Table.Th>Method</Table.Th><Table.Th>State</Table.Th><Table.Th>Step</Table.Th>
            <Table.Th>Accuracy by step</Table.Th><Table.Th>Newest</Table.Th><Table.Th>Disk</Table.Th><Table.Th>Why it waits, and warnings</Table.Th><Table.Th>Begun</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {runs.map((run) => (
            <Table.Tr key={run.id} className="row-link">
              <Table.Td><Checkbox aria-label={`Compare ${run.id}`} checked={chosen.includes(run.id)} onChange={(e) => choose(run.id, e.currentTarget.checked)} /></Table.Td>
              <Table.Td className="nowrap"><Link to={`/runs/${run.id}`}>{run.id}</Link></Table.Td>
              <Table.Td><Badge variant="default" tt="none">{run.method}</Badge></Table.Td>
              <Table.Td className="nowrap"><Status status={run.status} /></Table.Td>
              <Table.Td className="num nowrap" miw={110}>{run.step} of {run.steps}<Progress value={run.steps ? (100 * run.step) / run.steps : 100} size={4} mt={4} aria-label={`step ${run.step} of ${run.steps}`} /></Table.Td>
              <Table.Td><Sparkline lines={curveLines(curve(run))} steps={run.steps} /></Table.Td>
              <Table.Td><Text size="sm" className="num">{newest(run) || "–"}</Text></Table.Td>
              <Table.Td><Disk run={run.id} /></Table.Td>
              <Table.Td maw={380}><Why run={run} /></Table.Td>
              <Table.Td className="nowrap"><Text size="sm" c="dimmed">{ago(run.created)}</Text></Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </WideTable>
  );
}
