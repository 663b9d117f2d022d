// A problem over time: pass rate by step, its attempts, the notes it made and was shown.
import { Anchor, Card, Group, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { Link, useParams } from "react-router-dom";
import { api, told, type Schemas } from "../api/client";
import { useProblem } from "../api/queries";
import { Messages } from "../rollouts/Context";
import { plot } from "../run/plot";
import type { Line } from "../run/series";
import { Chart } from "../ui/Chart";
import { Copy } from "../ui/Copy";
import { percent } from "../ui/format";
import { WideTable } from "../ui/Scroll";
import { Empty, Told } from "../ui/states";
import { usePalette } from "../ui/Status";

type History = Schemas["ProblemHistory"];
const NAMES = { train: "student", probe: "with the teacher's context", evaluation: "evaluation" } as const;

export default function ProblemPage() {
  const { run = "", problem = "" } = useParams();
  const found = useProblem(run, problem);
  return <Told of={found}>{(data) => <Shown run={run} data={data} />}</Told>;
}

function Shown({ run, data }: { run: string; data: History }) {
  const palette = usePalette();
  const option = useMemo(() => {
    const lines: Line[] = (Object.keys(NAMES) as (keyof typeof NAMES)[]).map((drawn): Line => ({
      name: NAMES[drawn], dashed: drawn === "probe",
      points: data.history.filter((h) => h.drawn === drawn && h.judged).map((h): [number, number] => [h.step, h.passed / h.judged]),
    })).filter((each) => each.points.length);
    return plot({ palette, lines, share: true, zero: true, dots: true });
  }, [data, palette]);
  return (
    <Stack>
      <Group justify="space-between">
        <div><Title order={2}>{data.id}</Title><Text size="sm" c="dimmed">{data.split}{data.domain ? `, ${data.domain}` : ""}</Text></div>
        <Copy path={`/v1/runs/${run}/problems/${encodeURIComponent(data.id)}`} rows="history" />
      </Group>
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        <Card className="card" withBorder p="sm"><Title order={3} mb="xs">What it asks</Title><div style={{ maxHeight: 260, overflow: "auto" }} tabIndex={0} role="group" aria-label="What the problem asks"><Messages messages={data.messages} /></div></Card>
        <Card className="card" withBorder p="sm"><Title order={3} mb="xs">Pass rate by step</Title>
          {data.history.length ? <Chart option={option} height={240} label={`Pass rate of ${data.id}: ${data.history.map((h) => `step ${h.step} ${NAMES[h.drawn]} ${h.passed} of ${h.judged}`).join("; ")}`} /> : <Empty title="Not attempted yet">Its turn comes with a later step.</Empty>}
        </Card>
      </SimpleGrid>
      {data.history.length > 0 && (
        <WideTable label="Attempts by step" minWidth={520}>
          <Table.Thead><Table.Tr><Table.Th>Step</Table.Th><Table.Th>Drawn for</Table.Th><Table.Th>Version</Table.Th><Table.Th ta="right">Passed</Table.Th><Table.Th ta="right">Reward</Table.Th><Table.Th>Attempts</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{[...data.history].reverse().map((h) => (
            <Table.Tr key={`${h.step}${h.drawn}`} className="num"><Table.Td>{h.step}</Table.Td><Table.Td>{NAMES[h.drawn]}</Table.Td><Table.Td>{h.policy_version}</Table.Td><Table.Td ta="right">{h.passed} of {h.judged} ({percent(h.judged ? h.passed / h.judged : null)})</Table.Td><Table.Td ta="right">{h.reward == null ? "–" : h.reward.toFixed(2)}</Table.Td>
              <Table.Td><Anchor component={Link} size="sm" to={`/runs/${run}/rollouts?step=${h.step}&drawn=${h.drawn}&problem_id=${encodeURIComponent(data.id)}`}>show</Anchor></Table.Td></Table.Tr>
          ))}</Table.Tbody></WideTable>
      )}
      <Notes run={run} problem={data.id} />
    </Stack>
  );
}

function Notes({ run, problem }: { run: string; problem: string }) {
  const made = useQuery({
    queryKey: ["run", run, "memory", "of", problem],
    queryFn: () => told(api.GET("/v1/runs/{run}/memory", { params: { path: { run }, query: { problem_id: problem, level: "insight", status: "any", limit: 100 } } })),
    retry: false,
  });
  return (
    <div>
      <Title order={3} mb="xs">Insights that it made</Title>
      <Told of={made}>{(page) => page.items.length ? (
        <Table className="card"><Table.Tbody>{page.items.map((item) => (
          <Table.Tr key={item.id}><Table.Td w={130} className="nowrap" style={{ verticalAlign: "top" }}><Link to={`/runs/${run}/memory/${item.id}`}>{item.kind} v{item.version}</Link><Text size="xs" c="dimmed">{item.status}, step {item.step}</Text></Table.Td><Table.Td>{item.text}</Table.Td></Table.Tr>
        ))}</Table.Tbody></Table>
      ) : <Text size="sm" c="dimmed">None so far. The notes that it was shown stand with each of its attempts.</Text>}</Told>
    </div>
  );
}
