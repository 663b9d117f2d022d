// What stands around every view: where one is, light or dark, sign out; and the door, where a browser is not signed in.
import {
  ActionIcon, Anchor, AppShell, Box, Button, Card, Center, Group, Kbd, Modal, PasswordInput, Stack, Table, Text, Title, Tooltip,
  useComputedColorScheme, useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure, useHotkeys } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import { IconHelp, IconLogout, IconMoon, IconSun } from "@tabler/icons-react";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState, type FormEvent, type ReactNode } from "react";
import { Link, NavLink, useNavigate } from "react-router-dom";
import { signIn, signOut, useSignedOut } from "./api/session";
import { useChord } from "./ui/keys";
import { Failure } from "./ui/states";

const KEYS: [string, string][] = [
  ["g r", "runs"], ["g s", "system"], ["?", "these keys"], ["j / k", "next, previous (rollouts, proposals, memories)"],
  ["← / →", "step before, step after (rollouts)"], ["a / r", "accept, reject a proposal"], ["Esc", "close"],
];

export function Shell({ children }: { children: ReactNode }) {
  const scheme = useComputedColorScheme("light");
  const { setColorScheme } = useMantineColorScheme();
  const [helps, help] = useDisclosure(false);
  const navigate = useNavigate();
  useHotkeys([["shift+?", help.toggle], ["?", help.toggle]]);
  useChord((key) => {
    if (key === "r") navigate("/");
    else if (key === "s") navigate("/system");
  });
  const signedOut = useSignedOut();
  const other = scheme === "dark" ? "light" : "dark";
  const leave = () => void signOut().catch((error: unknown) => refused("Not signed out: this browser still is", error));
  return (
    <AppShell header={{ height: 52 }} padding={{ base: "sm", sm: "md" }}>
      <a className="skip" href="#main">To the content</a>
      <AppShell.Header px="md" style={{ background: "var(--card)" }}>
        <Group h="100%" justify="space-between" wrap="nowrap">
          <Group gap="md" wrap="nowrap" component="nav" aria-label="Main">
            <Link to="/" aria-label="PMD, to the runs" style={{ display: "flex", alignItems: "center", gap: 8, textDecoration: "none", color: "inherit" }}>
              <img src="/icon.svg" alt="" width={26} height={26} />
              <Text fw={700} visibleFrom="xs">PMD</Text>
            </Link>
            <Anchor component={NavLink} to="/" end>Runs</Anchor>
            <Anchor component={NavLink} to="/system">System</Anchor>
            <Anchor href="/docs">API</Anchor>
          </Group>
          <Group gap={6} wrap="nowrap">
            <Tooltip label="Keys (?)"><ActionIcon variant="default" size="lg" aria-label="Show keys" onClick={help.open}><IconHelp size={18} aria-hidden /></ActionIcon></Tooltip>
            <Tooltip label={`To ${other}`}>
              <ActionIcon variant="default" size="lg" aria-label={`Switch to ${other} colours`} onClick={() => setColorScheme(other)}>
                {scheme === "dark" ? <IconSun size={18} aria-hidden /> : <IconMoon size={18} aria-hidden />}
              </ActionIcon>
            </Tooltip>
            {!signedOut && (
              <Tooltip label="Sign out"><ActionIcon variant="default" size="lg" aria-label="Sign out" onClick={leave}><IconLogout size={18} aria-hidden /></ActionIcon></Tooltip>
            )}
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Main id="main" tabIndex={-1}>
        <Box maw={1680} mx="auto">{signedOut ? <SignIn /> : children}</Box>
      </AppShell.Main>
      <Modal opened={helps} onClose={help.close} title="Keys">
        <Table><Table.Tbody>{KEYS.map(([keys, does]) => (
          <Table.Tr key={keys}><Table.Td className="nowrap">{keys.split(" ").map((k) => (k === "/" ? " / " : <Kbd key={k} mr={4}>{k}</Kbd>))}</Table.Td><Table.Td>{does}</Table.Td></Table.Tr>
        ))}</Table.Tbody></Table>
      </Modal>
    </AppShell>
  );
}

const refused = (title: string, error: unknown) =>
  notifications.show({ title, message: error instanceof Error ? error.message : String(error), color: "orange", autoClose: false });

function SignIn() {
  const client = useQueryClient();
  const [token, setToken] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const enter = async (how: { token: string } | { code: string }) => {
    setBusy(true);
    setError(null);
    try {
      await signIn(how);
      await client.resetQueries();
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };
  const send = (event: FormEvent) => {
    event.preventDefault();
    void enter({ token: token.trim() });
  };
  return (
    <Center mt="10vh">
      <Card className="card" withBorder p="xl" w="min(440px, 100%)">
        <form onSubmit={send}>
          <Stack>
            <Title order={1}>Sign in</Title>
            <Text c="dimmed">Give the token of this installation: <code>var/token</code> where <code>pmd up</code> ran. Or let <code>pmd dashboard</code> open this page signed in.</Text>
            <PasswordInput label="Token" value={token} onChange={(e) => setToken(e.currentTarget.value)} autoComplete="current-password" data-autofocus required />
            {error != null && <Failure error={error} />}
            <Button type="submit" loading={busy}>Sign in</Button>
          </Stack>
        </form>
      </Card>
    </Center>
  );
}

/** Use the one-time code of a link (`#code=..`), and take it out of the address. Children wait for it. */
export function Door({ children }: { children: ReactNode }) {
  const [open, setOpen] = useState(() => !window.location.hash.startsWith("#code="));
  const used = useRef(open); // a code is good once, an effect may run twice
  useEffect(() => {
    if (used.current) return;
    used.current = true;
    const code = window.location.hash.slice("#code=".length);
    window.history.replaceState(null, "", window.location.pathname + window.location.search);
    signIn({ code }).catch((error: unknown) => refused("The link did not sign this browser in", error)).finally(() => setOpen(true));
  }, []);
  return open ? <>{children}</> : null;
}
