// The installation: services and their versions, disks, what waits, what failed.
import { Card, Group, SimpleGrid, Stack, Table, Text, Title } from "@mantine/core";
import { Link } from "react-router-dom";
import { useReady, useRuns, useServices } from "../api/queries";
import { Copy } from "../ui/Copy";
import { WideTable } from "../ui/Scroll";
import { Told } from "../ui/states";
import { Status } from "../ui/Status";

const SKIPPED = new Set(["status", "service"]);

/** A value of a service's details as people read it. */
function said(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(said).join(", ") || "none";
  if (typeof value === "object") return Object.entries(value).map(([name, each]) => (typeof each === "object" && each !== null ? `${name}: ${said(each)}` : `${name} ${said(each)}`)).join("; ") || "none";
  return String(value);
}

function Facts({ of }: { of: Record<string, unknown> }) {
  return (
    <dl className="facts">{Object.entries(of).filter(([name]) => !SKIPPED.has(name)).map(([name, value]) => (
      <div key={name} style={{ display: "contents" }}><dt><Text size="sm">{name.replaceAll("_", " ")}</Text></dt><dd><Text size="sm" className="num">{said(value)}</Text></dd></div>
    ))}</dl>
  );
}

export default function SystemPage() {
  const services = useServices();
  const ready = useReady();
  const runs = useRuns();
  const stuck = (runs.data ?? []).filter((run) => run.waiting || run.error || run.warnings.length);
  return (
    <Stack>
      <Group justify="space-between"><Title order={1}>System</Title><Copy path="/v1/services" /></Group>
      <SimpleGrid cols={{ base: 1, md: 2, xl: 3 }} spacing="sm">
        <Card className="card" withBorder><Title order={2} mb="xs">gateway</Title><Told of={ready}>{(data) => <Facts of={data as Record<string, unknown>} />}</Told></Card>
        <Told of={services}>{(all) => <>{all.map((service) => (
          <Card key={service.name} className="card" withBorder>
            <Group justify="space-between" mb="xs"><Title order={2}>{service.name}</Title><Text size="sm" fw={600}>{service.ready ? "✓ ready" : "✕ not ready"}</Text></Group>
            {service.error ? <Text size="sm">{service.error}. Look at <code>var/logs</code>, or <code>pmd status</code>.</Text> : <Facts of={service.details} />}
            <Text size="xs" c="dimmed" mt="xs">{service.url}</Text>
          </Card>
        ))}</>}</Told>
      </SimpleGrid>
      <Title order={2}>Runs that wait, failed, or have warnings</Title>
      <Told of={runs}>{() => stuck.length ? (
        <WideTable label="Runs that wait, failed, or have warnings" minWidth={480}><Table.Thead><Table.Tr><Table.Th>Run</Table.Th><Table.Th>State</Table.Th><Table.Th>Said</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{stuck.map((run) => <Table.Tr key={run.id}><Table.Td className="nowrap"><Link to={`/runs/${run.id}`}>{run.id}</Link></Table.Td><Table.Td><Status status={run.status} /></Table.Td><Table.Td><Text size="sm">{[run.waiting && `waits: ${run.waiting}`, run.error, ...run.warnings].filter(Boolean).join("; ")}</Text></Table.Td></Table.Tr>)}</Table.Tbody></WideTable>
      ) : <Text size="sm" c="dimmed">None.</Text>}</Told>
    </Stack>
  );
}
