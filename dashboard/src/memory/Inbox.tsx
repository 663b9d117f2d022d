// What the machine would change of memories that people hold: one after the other, by keys.
import { Button, Card, Group, Kbd, SegmentedControl, Stack, Text, Title } from "@mantine/core";
import { useHotkeys } from "@mantine/hooks";
import { useState } from "react";
import { Link, useParams } from "react-router-dom";
import { api, told, type Schemas } from "../api/client";
import { Copy } from "../ui/Copy";
import { Empty, Told } from "../ui/states";
import { Words } from "./ItemPage";
import { seen, useAct, useItem, useProposals } from "./queries";

type Proposal = Schemas["ProposalView"];

export default function Inbox() {
  const { run = "" } = useParams();
  const [status, setStatus] = useState<"open" | "accepted" | "rejected">("open");
  const proposals = useProposals(run, status);
  return (
    <Stack>
      <Group justify="space-between"><SegmentedControl value={status} onChange={(value) => setStatus(value as "open")} data={["open", "accepted", "rejected"]} aria-label="Proposals" /><Copy path={`/v1/runs/${run}/bank/proposals?status=${status}`} rows="proposals" /></Group>
      <Told of={proposals}>{(page) => page.proposals.length ? <Cards run={run} proposals={page.proposals} open={status === "open"} /> : <Empty title={status === "open" ? "Nothing waits for you" : "None so far"}>Edit or pin a memory: from then on the machine writes here what it would change, and changes nothing.</Empty>}</Told>
    </Stack>
  );
}

function Cards({ run, proposals, open }: { run: string; proposals: Proposal[]; open: boolean }) {
  const [at, setAt] = useState(0);
  const chosen = Math.min(at, proposals.length - 1);
  const path = (p: Proposal) => ({ run, proposal: p.id });
  const accept = useAct<Proposal>(run, async (p) => {
    const now = await told(api.GET("/v1/runs/{run}/memory/{item}", { params: { path: { run, item: p.item_id } } }));
    return told(api.POST("/v1/runs/{run}/bank/proposals/{proposal}:accept", { params: { path: path(p), header: seen(now.item.version) } }));
  }, () => "Accepted.");
  const reject = useAct<Proposal>(run, (p) => told(api.POST("/v1/runs/{run}/bank/proposals/{proposal}:reject", { params: { path: path(p) } })), () => "Declined: the same is not proposed again.");
  const walk = (by: number) => {
    const next = Math.min(Math.max(chosen + by, 0), proposals.length - 1);
    setAt(next);
    document.getElementById(`proposal-${next}`)?.scrollIntoView({ block: "nearest" });
  };
  const busy = accept.isPending || reject.isPending;
  const now = proposals[chosen]!;
  useHotkeys([["j", () => walk(1)], ["k", () => walk(-1)], ["a", () => open && !busy && accept.mutate(now)], ["r", () => open && !busy && reject.mutate(now)]]);
  return (
    <Stack>
      {open && <Text size="sm" c="dimmed"><Kbd>j</Kbd> <Kbd>k</Kbd> go on, <Kbd>a</Kbd> accept, <Kbd>r</Kbd> decline</Text>}
      {proposals.map((p, n) => (
        <Card key={p.id} id={`proposal-${n}`} className="card" withBorder style={n === chosen ? { outline: "2px solid var(--mantine-primary-color-filled)" } : undefined} onClick={() => setAt(n)}>
          <Group justify="space-between" mb="xs"><Title order={2} fz="sm">{p.action === "replace" ? "Reword" : "Retire"} <Link to={`/runs/${run}/memory/${p.item_id}`}>{p.item_id}</Link></Title><Text size="sm" c="dimmed">step {p.step}, {p.actor}{p.decided_by ? `, decided by ${p.decided_by}` : ""}</Text></Group>
          <What run={run} proposal={p} />
          <Text size="sm" c="dimmed" my="xs">{p.reason}</Text>
          {open && <Group gap="xs"><Button size="xs" disabled={busy} onClick={() => accept.mutate(p)}>Accept</Button><Button size="xs" variant="default" disabled={busy} onClick={() => reject.mutate(p)}>Decline</Button></Group>}
        </Card>
      ))}
    </Stack>
  );
}

function What({ run, proposal }: { run: string; proposal: Proposal }) {
  const item = useItem(run, proposal.item_id);
  return <Told of={item} rows={1}>{(data) => <Text size="sm">{proposal.text ? <Words before={data.item.text} after={proposal.text} /> : <del className="del">{data.item.text}</del>}</Text>}</Told>;
}
