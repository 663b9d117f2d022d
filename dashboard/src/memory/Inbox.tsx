// What the machine would change of memories that people hold: one after the other, by keys.
import { Button, Card, Group, Kbd, SegmentedControl, Stack, Text, Title } from "@mantine/core";
import { useEffect, useState } from "react";
import { Link, useParams } from "react-router-dom";
import { api, told, type Schemas } from "../api/client";
import { Copy } from "../ui/Copy";
import { useKeys } from "../ui/keys";
import { Empty, Told } from "../ui/states";
import { Words } from "./ItemPage";
import { seen, useAct, useItem, useProposals } from "./queries";

type Proposal = Schemas["ProposalView"];

export default function Inbox() {
  const { run = "" } = useParams();
  const [status, setStatus] = useState<"open" | "accepted" | "rejected">("open");
  const found = useProposals(run, status);
  return (
    <Stack>
      <Group justify="space-between"><SegmentedControl value={status} onChange={(value) => setStatus(value as "open")} data={["open", "accepted", "rejected"]} aria-label="Proposals" /><Copy path={`/v1/runs/${run}/bank/proposals?status=${status}`} rows="proposals" /></Group>
      <Told of={found}>{({ pages }) => {
        const proposals = pages.flatMap((page) => page.proposals);
        return proposals.length ? <Cards key={status} run={run} proposals={proposals} open={status === "open"} /> : <Empty title={status === "open" ? "Nothing waits for you" : "None so far"}>Edit or pin a memory: from then on the machine writes here what it would change, and changes nothing.</Empty>;
      }}</Told>
      {found.hasNextPage && <Button variant="default" loading={found.isFetchingNextPage} onClick={() => void found.fetchNextPage()}>More</Button>}
    </Stack>
  );
}

function Cards({ run, proposals, open }: { run: string; proposals: Proposal[]; open: boolean }) {
  // By id: a new proposal comes in on top, and what the keys decide must stay what is framed.
  const [framed, setFramed] = useState({ id: proposals[0]!.id, at: 0 });
  const found = proposals.findIndex((p) => p.id === framed.id);
  const chosen = found >= 0 ? found : Math.min(framed.at, proposals.length - 1);
  const frame = (at: number) => setFramed({ id: proposals[at]!.id, at });
  useEffect(() => {
    if (proposals[chosen]!.id !== framed.id || chosen !== framed.at) frame(chosen);
  });
  const path = (p: Proposal) => ({ run, proposal: p.id });
  const accept = useAct<{ proposal: Proposal; version: number }>(run, ({ proposal, version }) => told(api.POST("/v1/runs/{run}/bank/proposals/{proposal}:accept", { params: { path: path(proposal), header: seen(version) } })), () => "Accepted.");
  const reject = useAct<Proposal>(run, (p) => told(api.POST("/v1/runs/{run}/bank/proposals/{proposal}:reject", { params: { path: path(p) } })), () => "Declined: the same is not proposed again.");
  const walk = (by: number) => {
    const next = Math.min(Math.max(chosen + by, 0), proposals.length - 1);
    frame(next);
    document.getElementById(`proposal-${next}`)?.scrollIntoView({ block: "nearest" });
  };
  const busy = accept.isPending || reject.isPending;
  useKeys([["j", () => walk(1)], ["k", () => walk(-1)]]);
  return (
    <Stack>
      {open && <Text size="sm" c="dimmed"><Kbd>j</Kbd> <Kbd>k</Kbd> go on, <Kbd>a</Kbd> accept, <Kbd>r</Kbd> decline</Text>}
      {proposals.map((p, n) => (
        <Card key={p.id} id={`proposal-${n}`} className="card" withBorder style={n === chosen ? { outline: "2px solid var(--mantine-primary-color-filled)" } : undefined} onClick={() => frame(n)}>
          <Group justify="space-between" mb="xs"><Title order={2} fz="sm">{p.action === "replace" ? "Reword" : "Retire"} <Link to={`/runs/${run}/memory/${p.item_id}`}>{p.item_id}</Link></Title><Text size="sm" c="dimmed">step {p.step}, {p.actor}{p.decided_by ? `, decided by ${p.decided_by}` : ""}</Text></Group>
          <One run={run} proposal={p} decides={open} byKeys={n === chosen} busy={busy} accept={(version) => accept.mutate({ proposal: p, version })} reject={() => reject.mutate(p)} />
        </Card>
      ))}
    </Stack>
  );
}

type OneProps = { run: string; proposal: Proposal; decides: boolean; byKeys: boolean; busy: boolean; accept: (version: number) => void; reject: () => void };

/** One proposal against what its memory says now: that version is accepted, no later one. */
function One({ run, proposal, decides, byKeys, busy, accept, reject }: OneProps) {
  const found = useItem(run, proposal.item_id);
  const item = found.data?.item;
  const take = item && !busy ? () => accept(item.version) : undefined;
  const decline = busy ? undefined : reject;
  // A key that is held down decides once.
  useKeys(decides && byKeys ? [["a", (event) => event.repeat || take?.()], ["r", (event) => event.repeat || decline?.()]] : []);
  return (
    <>
      <Told of={found} rows={1}>{(data) => <Text size="sm">{proposal.text ? <Words before={data.item.text} after={proposal.text} /> : <del className="del">{data.item.text}</del>}</Text>}</Told>
      {decides && item && item.version !== proposal.item_version && <Text size="sm" mt="xs">Made for version {proposal.item_version}; the memory is at {item.version}, which is what is compared here.</Text>}
      <Text size="sm" c="dimmed" my="xs">{proposal.reason}</Text>
      {decides && <Group gap="xs"><Button size="xs" disabled={!take} onClick={take}>Accept</Button><Button size="xs" variant="default" disabled={!decline} onClick={decline}>Decline</Button></Group>}
    </>
  );
}
