// The resolved recipe of a run; against another run's, only what differs.
import { Card, Group, Stack, Table, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { useReport } from "../api/queries";
import { Copy } from "../ui/Copy";
import { Empty, Told } from "../ui/states";

/** A tree as dotted keys; lists stay whole. */
export function flat(tree: unknown, at = ""): [string, string][] {
  if (tree !== null && typeof tree === "object" && !Array.isArray(tree))
    return Object.entries(tree).flatMap(([key, value]) => flat(value, at ? `${at}.${key}` : key));
  return [[at, typeof tree === "string" ? tree : JSON.stringify(tree)]];
}

export default function Recipe({ run }: { run: string }) {
  const report = useReport(run);
  const [q, setQ] = useState("");
  return (
    <Told of={report}>
      {(data) => {
        const rows = flat(data.recipe).filter(([key, value]) => `${key} ${value}`.toLowerCase().includes(q.toLowerCase()));
        return (
          <Stack>
            <Group justify="space-between"><TextInput aria-label="Find a key or a value" placeholder="Find a key or a value" value={q} onChange={(e) => setQ(e.currentTarget.value)} w={260} /><Copy path={`/v1/runs/${run}/report`} rows="recipe" /></Group>
            {rows.length ? (
              <Card className="card" withBorder p={0}><Table layout="fixed"><Table.Tbody>{rows.map(([key, value]) => (
                <Table.Tr key={key}><Table.Th scope="row" w="38%" fw={500} style={{ verticalAlign: "top" }}>{key}</Table.Th>
                  <Table.Td>{value.length > 240 ? <details><summary>{value.slice(0, 80)}…</summary><pre className="text">{value}</pre></details> : <Text size="sm" ff="monospace">{value}</Text>}</Table.Td></Table.Tr>
              ))}</Table.Tbody></Table></Card>
            ) : <Empty title="No key matches">Every key of a recipe is there, defaults filled in; take a word out.</Empty>}
          </Stack>
        );
      }}
    </Told>
  );
}
