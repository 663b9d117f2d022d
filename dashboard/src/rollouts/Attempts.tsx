// The attempts at one problem side by side: text by token, verdict, feedback, the teacher's context.
import { ActionIcon, Anchor, Card, Group, SegmentedControl, Stack, Text, Title, Tooltip } from "@mantine/core";
import { IconX } from "@tabler/icons-react";
import { useState } from "react";
import { Link } from "react-router-dom";
import type { Drawn, RolloutRow } from "../api/client";
import { useRollout } from "../api/queries";
import { Copy } from "../ui/Copy";
import { plain } from "../ui/format";
import { Empty, Told } from "../ui/states";
import { Verdict } from "../ui/Status";
import { Context, Messages } from "./Context";
import { Tokens } from "./Tokens";

type Props = { run: string; step: number; drawn: Drawn; problem: string; rows: RolloutRow[]; chosen: string; choose: (rollout: string | null) => void };

export function Attempts({ run, step, drawn, problem, rows, chosen, choose }: Props) {
  const [view, setView] = useState("one");
  const shown = view === "all" ? rows.map((row) => row.id) : [chosen];
  return (
    <Stack gap="sm">
      <Group justify="space-between" wrap="nowrap" align="flex-start">
        <div style={{ minWidth: 0 }}>
          <Title order={2}>{problem}</Title>
          <Anchor component={Link} size="sm" to={`/runs/${run}/problems/${encodeURIComponent(problem)}`}>this problem over time</Anchor>
        </div>
        <Group gap="xs" wrap="nowrap">
          <SegmentedControl size="xs" value={view} onChange={setView} data={[{ value: "one", label: "One" }, { value: "all", label: `All ${rows.length}, side by side` }]} aria-label="Attempts to show" />
          <Tooltip label="Close (Esc)"><ActionIcon variant="default" size="lg" aria-label="Close the attempts" onClick={() => choose(null)}><IconX size={18} aria-hidden /></ActionIcon></Tooltip>
        </Group>
      </Group>
      {view === "all" ? (
        <div className="side" tabIndex={0} role="group" aria-label="Attempts side by side">
          {shown.map((id) => <Attempt key={id} run={run} step={step} drawn={drawn} rollout={id} brief />)}
        </div>
      ) : <Attempt run={run} step={step} drawn={drawn} rollout={chosen} />}
    </Stack>
  );
}

type One = { run: string; step: number; drawn: Drawn; rollout: string; brief?: boolean };

function Attempt({ run, step, drawn, rollout, brief = false }: One) {
  const detail = useRollout(run, step, drawn, rollout);
  const path = `/v1/runs/${run}/steps/${step}/rollouts/${encodeURIComponent(rollout)}?drawn=${drawn}`;
  return (
    <Told of={detail}>
      {(data) => (
        <Stack gap="sm" style={{ minWidth: 0 }}>
          <Card className="card" withBorder p="sm">
            <Group justify="space-between" mb="xs" wrap="nowrap">
              <div><Text fw={600} size="sm">{rollout}</Text><Verdict outcome={data.row.outcome} reward={data.row.reward} /></div>
              {!brief && <Copy path={path} />}
            </Group>
            <Text size="xs" c="dimmed" className="num" mb="xs">
              {data.row.tokens} tokens{data.row.finish_reason === "length" ? ", cut short" : ""}, policy version {data.row.policy_version}{data.cpu_ms ? `, ${data.cpu_ms.toFixed(0)} ms of CPU` : ""}{data.sandbox_tier ? `, sandbox ${data.sandbox_tier}` : ""}
            </Text>
            {!brief && <details><summary>What the problem asks</summary><Card withBorder p="sm" my="xs"><Messages messages={data.problem} /></Card></details>}
            {data.tokens ? <Tokens tokens={data.tokens} /> : <pre className="text">{data.text}</pre>}
          </Card>
          {(data.feedback || data.error) && (
            <Card className="card" withBorder p="sm">
              <Title order={3} mb={4}>{data.error ? "Why it could not be judged" : "Feedback of the verifier"}</Title>
              <pre className="text">{data.error || data.feedback}</pre>
            </Card>
          )}
          <Card className="card" withBorder p="sm">
            <Title order={3} mb="xs">{drawn === "train" ? "What the teacher read" : "What it was drawn from"}</Title>
            {data.context ? (brief ? <Text size="sm">{data.context.has_context ? `${data.context.items.length} memories${data.context.demonstration ? `, demonstration ${data.context.demonstration}` : ""}` : "no context"}</Text> : <Context run={run} context={data.context} />)
              : <Text size="sm" c="dimmed">{drawn === "evaluation" ? "Nothing but the problem: evaluation reads no memory." : "No teacher context is recorded for this step (yet)."}</Text>}
          </Card>
        </Stack>
      )}
    </Told>
  );
}

export function NoAttempt({ drawn }: { drawn: Drawn }) {
  return <Empty title="Choose an attempt">Each row is a problem, each square an attempt. Click one, or go with <b>j</b> and <b>k</b>. {drawn === "train" ? "Rows on top have attempts that differ most: those teach." : plain("")}</Empty>;
}
