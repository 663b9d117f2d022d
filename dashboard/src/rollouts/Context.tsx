// The exact context that the teacher read for a rollout, what it shows and what it left out.
import { Badge, Card, Group, Stack, Table, Text, Title } from "@mantine/core";
import { Link } from "react-router-dom";
import type { RolloutDetail } from "../api/client";
import { plain } from "../ui/format";

type Shown = { id: string; version: number; level: string; text?: string; score?: number; credibility?: number; reason: string; cause?: string | null };

export function Messages({ messages }: { messages: { role: string; content: string }[] }) {
  return (
    <Stack gap="xs">
      {messages.map((message, n) => (
        <div key={n}><Text size="xs" c="dimmed" tt="uppercase" fw={600}>{message.role}</Text><pre className="text">{message.content}</pre></div>
      ))}
    </Stack>
  );
}

export function Context({ run, context }: { run: string; context: NonNullable<RolloutDetail["context"]> }) {
  const items = context.items as unknown as Shown[];
  const left = context.left_out as unknown as Shown[];
  return (
    <Stack>
      <Group gap="xs">
        <Badge variant="default" tt="none">{context.has_context ? `${items.length} memories` : "no context: masked from distillation"}</Badge>
        {context.demonstration && <Badge variant="default" tt="none">demonstration {context.demonstration}</Badge>}
        {context.feedback && <Badge variant="default" tt="none">its own feedback</Badge>}
        <Badge variant="default" tt="none">bank at seq {context.seq}</Badge>
      </Group>
      <Card withBorder className="card" p="sm"><Messages messages={context.messages} /></Card>
      {items.length > 0 && <Notes run={run} title="Memories that it shows" notes={items} />}
      {left.length > 0 && <Notes run={run} title="Found, and left out" notes={left} />}
    </Stack>
  );
}

function Notes({ run, title, notes }: { run: string; title: string; notes: Shown[] }) {
  return (
    <div>
      <Title order={3} mb={4}>{title}</Title>
      <Table>
        <Table.Tbody>{notes.map((note) => (
          <Table.Tr key={`${note.id}${note.version}`}>
            <Table.Td w={110} style={{ verticalAlign: "top" }} className="nowrap"><Link to={`/runs/${run}/memory/${note.id}`}>{note.level} v{note.version}</Link></Table.Td>
            <Table.Td>{note.text && <Text size="sm">{note.text}</Text>}<Text size="xs" c="dimmed">{note.cause ? `${plain(note.cause)}: ` : ""}{note.reason}{note.credibility != null ? `; credibility ${note.credibility.toFixed(2)}, score ${(note.score ?? 0).toFixed(2)}` : ""}</Text></Table.Td>
          </Table.Tr>
        ))}</Table.Tbody>
      </Table>
    </div>
  );
}
