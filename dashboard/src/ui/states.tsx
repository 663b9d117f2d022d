// What a view shows when it has nothing to show yet: it is asked for, there is none, or it was refused.
import { Alert, Button, Card, List, Skeleton, Stack, Text, Title } from "@mantine/core";
import { IconAlertTriangle } from "@tabler/icons-react";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Refusal } from "../api/client";

export function Loading({ rows = 4 }: { rows?: number }) {
  return (
    <Stack gap="xs" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, n) => (
        <Skeleton key={n} height={28} />
      ))}
    </Stack>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <Card withBorder className="card" p="lg">
      <Title order={2} mb={4}>{title}</Title>
      <Text component="div" c="dimmed">{children}</Text>
    </Card>
  );
}

export function Failure({ error, again }: { error: unknown; again?: () => void }) {
  const fields = error instanceof Refusal ? error.fields : [];
  return (
    <Alert color="orange" variant="outline" icon={<IconAlertTriangle aria-hidden />} title="This can't be shown" role="alert"
      styles={{ title: { color: "var(--mantine-color-text)" } }}>
      <Text>{error instanceof Error ? error.message : String(error)}</Text>
      {fields.length > 0 && (
        <List size="sm">{fields.map((each) => <List.Item key={each.field}><code>{each.field}</code>: {each.message}</List.Item>)}</List>
      )}
      {again && <Button mt="sm" size="xs" variant="default" onClick={again}>Ask again</Button>}
    </Alert>
  );
}

/** Shows what a query holds, or else where it stands. */
export function Told<T>({ of, rows, children }: { of: UseQueryResult<T>; rows?: number; children: (data: T) => ReactNode }) {
  if (of.data !== undefined) return <>{children(of.data)}</>;
  if (of.isError) return <Failure error={of.error} again={() => void of.refetch()} />;
  return <Loading rows={rows} />;
}
