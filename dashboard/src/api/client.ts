// The gateway's API, typed by its own OpenAPI document. Everything that the page shows comes through here.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Run = Schemas["RunView"];
export type Step = Schemas["StepView"];
export type Item = Schemas["ItemView"];
export type RolloutRow = Schemas["RolloutRow"];
export type RolloutDetail = Schemas["RolloutDetail"];
export type Drawn = RolloutRow extends never ? never : Schemas["RolloutPage"]["drawn"];
export type Outcome = NonNullable<RolloutRow["outcome"]>;
export type RunEvent = Schemas["EventView"];
export type PhaseTime = Schemas["PhaseTime"];

/** A refusal, as `application/problem+json` says it: its title is cause and fix. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    title: string,
    readonly fields: { field: string; message: string }[] = [],
  ) {
    super(title);
  }
}

export const api = createClient<paths>({ baseUrl: "", credentials: "same-origin" });

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** What an answer holds; throws its refusal. */
export async function told<T>(asked: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await asked;
  } catch (cause) {
    throw new Refusal(0, `the gateway does not answer (${String(cause)}); is \`pmd up\` running?`);
  }
  if (answer.response.ok) return answer.data as T;
  const said = answer.error as { title?: string; errors?: { field: string; message: string }[] } | undefined;
  throw new Refusal(answer.response.status, said?.title ?? `HTTP ${answer.response.status}`, said?.errors ?? []);
}
