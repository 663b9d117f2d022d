// A run's log, newest first.
import { Group, Stack, Switch, Table, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import type { RunEvent } from "../api/client";
import { Copy } from "../ui/Copy";
import { clock } from "../ui/format";
import { WideTable } from "../ui/Scroll";
import { Empty } from "../ui/states";

const SHOWN = 400;

function said(event: RunEvent): string {
  const { key: _, ...rest } = event.payload as Record<string, unknown>;
  return Object.entries(rest).map(([name, value]) => `${name} ${typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
}

export default function Log({ run, events }: { run: string; events: RunEvent[] }) {
  const [q, setQ] = useState("");
  const [phases, setPhases] = useState(false);
  const found = events.filter((event) => (phases || !/^phase\.(submitted|succeeded)$/.test(event.type)) && `${event.type} ${said(event)}`.toLowerCase().includes(q.toLowerCase())).reverse();
  return (
    <Stack>
      <Group justify="space-between">
        <Group><TextInput aria-label="Find in the log" placeholder="Find in the log" value={q} onChange={(e) => setQ(e.currentTarget.value)} w={220} /><Switch label="Phases too" checked={phases} onChange={(e) => setPhases(e.currentTarget.checked)} /></Group>
        <Copy path={`/v1/runs/${run}/events?format=json&limit=1000`} />
      </Group>
      {found.length === 0 ? <Empty title="Nothing to tell">No line of the log matches, or none was written yet.</Empty> : (
        <WideTable label="Log" minWidth={520}><Table.Thead><Table.Tr><Table.Th>When</Table.Th><Table.Th>What</Table.Th><Table.Th>Said</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{found.slice(0, SHOWN).map((event) => (
            <Table.Tr key={event.seq}><Table.Td className="nowrap num">{clock(event.ts)}</Table.Td><Table.Td className="nowrap">{event.type}</Table.Td><Table.Td><Text size="sm">{said(event)}</Text></Table.Td></Table.Tr>
          ))}</Table.Tbody></WideTable>
      )}
      {found.length > SHOWN && <Text size="sm" c="dimmed">The newest {SHOWN} of {found.length} lines; filter, or take the request for all.</Text>}
    </Stack>
  );
}
