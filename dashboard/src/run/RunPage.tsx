// A run: its head, and beneath it one of its views.
import { Alert, Button, Group, Modal, Progress, Stack, Text, Title } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import { IconPlayerPause, IconPlayerPlay, IconPlayerStop } from "@tabler/icons-react";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useRef } from "react";
import { NavLink, Route, Routes, useLocation, useParams } from "react-router-dom";
import { api, told, type Run } from "../api/client";
import { useRunEvents, type Live } from "../api/events";
import { isOver, useRun } from "../api/queries";
import { Copy } from "../ui/Copy";
import { ago, duration, percent, short } from "../ui/format";
import { Empty, Loading, Told } from "../ui/states";
import { errorTitle, Status } from "../ui/Status";
import { Curves } from "./Curves";

const Timeline = lazy(() => import("./Timeline"));
const Recipe = lazy(() => import("./Recipe"));
const Log = lazy(() => import("./Log"));
const RolloutsPage = lazy(() => import("../rollouts/RolloutsPage"));
const ProblemPage = lazy(() => import("../problem/ProblemPage"));
const MemoryPage = lazy(() => import("../memory/MemoryPage"));
const ItemPage = lazy(() => import("../memory/ItemPage"));
const Inbox = lazy(() => import("../memory/Inbox"));

const TABS: [string, string][] = [["", "Curves"], ["rollouts", "Rollouts"], ["memory", "Memory"], ["inbox", "Proposals"], ["timeline", "Timeline"], ["recipe", "Recipe"], ["log", "Log"]];

export default function RunPage() {
  const { run = "" } = useParams();
  const view = useRun(run);
  const { events, live } = useRunEvents(run, view.data !== undefined && isOver(view.data.status));
  return (
    <Told of={view}>
      {(data) => (
        <Stack>
          <Head run={data} live={live} />
          <Tabs run={run} />
          <Suspense fallback={<Loading />}>
            <Routes>
              <Route index element={<Curves run={data} events={events} />} />
              <Route path="timeline" element={<Timeline run={run} />} />
              <Route path="recipe" element={<Recipe run={run} />} />
              <Route path="log" element={<Log run={run} events={events} />} />
              <Route path="rollouts" element={<RolloutsPage />} />
              <Route path="problems/:problem" element={<ProblemPage />} />
              <Route path="memory" element={<MemoryPage />} />
              <Route path="memory/:item" element={<ItemPage />} />
              <Route path="inbox" element={<Inbox />} />
              <Route path="*" element={<Empty title="No such view">Choose one of the views above.</Empty>} />
            </Routes>
          </Suspense>
        </Stack>
      )}
    </Told>
  );
}

/** In a narrow window they scroll sideways; the one that is open is in sight. */
function Tabs({ run }: { run: string }) {
  const bar = useRef<HTMLElement>(null);
  const { pathname } = useLocation();
  useEffect(() => {
    bar.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }); // newer browsers return a promise
  }, [pathname]);
  return (
    <nav ref={bar} className="tabs" aria-label="Views of the run">
      {TABS.map(([path, name]) => <NavLink key={path} to={path ? `/runs/${run}/${path}` : `/runs/${run}`} end={!path}>{name}</NavLink>)}
    </nav>
  );
}

const LIVE: Record<Live, string> = { connecting: "connecting", live: "live", ended: "", lost: "connection lost; trying again" };

function Head({ run, live }: { run: Run; live: Live }) {
  const now = run.latest;
  const open = run.phases.filter((phase) => phase.status === "submitted").map((phase) => phase.name.replaceAll("_", " "));
  const facts: [string, string][] = [
    ...Object.entries(now?.accuracy ?? {}).map(([split, value]): [string, string] => [`accuracy, ${split}`, percent(value, 1)]),
    ["passed in training", percent(now?.pass_rate, 1)], ["teacher's lead", now?.lead == null ? "–" : `${now.lead > 0 ? "+" : ""}${(100 * now.lead).toFixed(1)} points`],
    ["loss", short(now?.train.loss)], ["mismatch", `${short(now?.train.mismatch_kl)} nats`],
  ];
  return (
    <Stack gap="xs">
      <Group justify="space-between" align="flex-start">
        <Stack gap={2} style={{ minWidth: 0 }}>
          <Title order={1}>{run.id}</Title>
          <Group gap="sm">
            <Status status={run.status} />
            <Text size="sm">{run.method}</Text>
            <Text size="sm" className="num">step {run.step} of {run.steps}</Text>
            {open.length > 0 && !run.waiting && <Text size="sm" c="dimmed">now: {open.join(", ")}</Text>}
            <Text size="sm" c="dimmed">begun {ago(run.created)}</Text>
            {!isOver(run.status) && LIVE[live] && <Text size="sm" c="dimmed" role="status">{live === "live" ? "● " : ""}{LIVE[live]}</Text>}
          </Group>
        </Stack>
        <Group gap="xs"><Steer run={run} /><Copy path={`/v1/runs/${run.id}`} /></Group>
      </Group>
      <Progress value={run.steps ? (100 * run.step) / run.steps : 100} size="sm" aria-label={`step ${run.step} of ${run.steps}`} />
      {run.waiting && <Note title={`Waits${run.waiting_since ? ` for ${duration(Date.now() / 1000 - run.waiting_since)}` : ""}; it goes on by itself`}>{run.waiting}</Note>}
      {run.error && <Note title={errorTitle(run.status)}>{run.error}</Note>}
      {run.warnings.length > 0 && (
        <details><summary>{run.warnings.length} warning{run.warnings.length > 1 ? "s" : ""}</summary><Stack gap={4} mt={6}>{run.warnings.map((w) => <Text key={w} size="sm">{w}</Text>)}</Stack></details>
      )}
      <Group gap="lg" component="dl" m={0}>
        {facts.map(([name, value]) => (
          <div key={name}><Text component="dt" size="xs" c="dimmed">{name}</Text><Text component="dd" m={0} fw={600} className="num">{value}</Text></div>
        ))}
      </Group>
    </Stack>
  );
}

function Note({ title, children }: { title: string; children: string }) {
  return <Alert variant="outline" color="orange" title={title} styles={{ title: { color: "var(--mantine-color-text)" } }}>{children}</Alert>;
}

function Steer({ run }: { run: Run }) {
  const client = useQueryClient();
  const [asks, ask] = useDisclosure(false);
  const steer = useMutation({
    mutationFn: (verb: "pause" | "resume" | "cancel") => {
      const path = { params: { path: { run: run.id } } };
      if (verb === "pause") return told(api.POST("/v1/runs/{run}:pause", path));
      if (verb === "resume") return told(api.POST("/v1/runs/{run}:resume", path));
      return told(api.POST("/v1/runs/{run}:cancel", path));
    },
    onSuccess: (_, verb) => {
      void client.invalidateQueries({ queryKey: ["run", run.id] });
      if (verb === "pause") notifications.show({ message: "It pauses once its service calls in progress have ended." });
    },
    onError: (error) => notifications.show({ message: error.message, color: "orange" }),
  });
  const may = (...status: string[]) => status.includes(run.status);
  return (
    <>
      {may("running", "queued") && <Button variant="default" leftSection={<IconPlayerPause size={16} aria-hidden />} loading={steer.isPending} onClick={() => steer.mutate("pause")}>Pause</Button>}
      {may("paused", "failed") && <Button leftSection={<IconPlayerPlay size={16} aria-hidden />} loading={steer.isPending} onClick={() => steer.mutate("resume")}>Resume</Button>}
      {may("running", "queued", "paused") && <Button variant="default" leftSection={<IconPlayerStop size={16} aria-hidden />} onClick={ask.open}>Cancel</Button>}
      <Modal opened={asks} onClose={ask.close} title="Cancel this run?">
        <Text mb="md">It ends for good and can't be resumed. What it recorded stays.</Text>
        <Group justify="flex-end">
          <Button variant="default" onClick={ask.close} data-autofocus>Keep it</Button>
          <Button color="red" onClick={() => { steer.mutate("cancel"); ask.close(); }}>Cancel the run</Button>
        </Group>
      </Modal>
    </>
  );
}
