// What is asked for, each under a key that begins with ["run", id] where it is of a run: its events refresh these.
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { isTaught } from "../rollouts/gap";
import { api, told, type Drawn, type RolloutDetail, type Run } from "./client";

const PAGE = 500;
const POLL_MS = 4000;

/** All runs, newest first, page by page while the `Link` header names a next one. */
export async function everyRun(page: (after?: string) => Promise<{ runs: Run[]; link: string | null }>): Promise<Run[]> {
  const all: Run[] = [];
  for (;;) {
    const { runs, link } = await page(all.at(-1)?.id);
    all.push(...runs);
    if (!runs.length || !link?.includes('rel="next"')) return all;
  }
}

export const useRuns = () =>
  useQuery({
    queryKey: ["runs"],
    queryFn: () =>
      everyRun(async (after) => {
        const asked = api.GET("/v1/runs", { params: { query: { limit: PAGE, after } } });
        const runs = await told(asked);
        return { runs, link: (await asked).response.headers.get("Link") };
      }),
    refetchInterval: (query) => POLL_MS * Math.max(1, Math.ceil((query.state.data?.length ?? 0) / PAGE)),
  });

export const useCurves = (runs: string[]) =>
  useQuery({
    queryKey: ["curves", ...runs],
    queryFn: async () => {
      const pages: string[][] = [];
      for (let at = 0; at < runs.length; at += 100) pages.push(runs.slice(at, at + 100));
      const found = await Promise.all(
        pages.map((run) => told(api.GET("/v1/curves", { params: { query: { run } } }))),
      );
      return new Map(found.flat().map((curve) => [curve.run, curve]));
    },
    enabled: runs.length > 0,
    refetchInterval: 10_000,
    placeholderData: keepPreviousData,
  });

export const useDisk = (run: string) =>
  useQuery({
    queryKey: ["disk", run],
    queryFn: () => told(api.GET("/v1/runs/{run}/disk", { params: { path: { run } } })),
    staleTime: 60_000,
  });

export const useRun = (run: string) =>
  useQuery({
    queryKey: ["run", run, "view"],
    queryFn: () => told(api.GET("/v1/runs/{run}", { params: { path: { run } } })),
    refetchInterval: (query) => (isFinal(query.state.data?.status) ? false : 5000),
  });

/** Whether nothing happens to a run any more, but that somebody may resume it. */
export const isOver = (status: string) => isFinal(status) || status === "failed";
const isFinal = (status: string | undefined) => status === "succeeded" || status === "cancelled";

export const useSteps = (run: string) =>
  useQuery({
    queryKey: ["run", run, "steps"],
    queryFn: () => told(api.GET("/v1/runs/{run}/steps", { params: { path: { run } } })),
    placeholderData: keepPreviousData,
  });

export const usePhases = (run: string) =>
  useQuery({
    queryKey: ["run", run, "phases"],
    queryFn: () => told(api.GET("/v1/runs/{run}/phases", { params: { path: { run } } })),
    placeholderData: keepPreviousData,
  });

export const useReport = (run: string) =>
  useQuery({
    queryKey: ["report", run],
    queryFn: () => told(api.GET("/v1/runs/{run}/report", { params: { path: { run } } })),
    staleTime: 60_000,
  });

export type RolloutFilter = {
  step?: number; drawn: Drawn; split?: string; outcome?: string; problem_id?: string;
  min_reward?: number; max_reward?: number; min_tokens?: number; max_tokens?: number; q?: string;
  sort: "variance" | "problem" | "reward" | "tokens"; offset?: number; limit?: number;
};

export const useRollouts = (run: string, filter: RolloutFilter) =>
  useQuery({
    queryKey: ["run", run, "rollouts", filter],
    queryFn: () =>
      told(api.GET("/v1/runs/{run}/rollouts", { params: { path: { run }, query: filter as never } })),
    placeholderData: keepPreviousData,
  });

export const useRollout = (run: string, step: number, drawn: Drawn, rollout: string) =>
  useQuery({
    queryKey: ["run", run, "rollout", step, drawn, rollout],
    queryFn: () =>
      told(
        api.GET("/v1/runs/{run}/steps/{step}/rollouts/{rollout}", {
          params: { path: { run, step, rollout }, query: { drawn } },
        }),
      ),
    // While the step goes on, its verdict, its context and what it is taught are still to come.
    staleTime: (query) => (isWhole(query.state.data) ? "static" : 2000),
    gcTime: 300_000,
  });

/** Whether all that will ever be told of a rollout is there. One that no teacher taught may still be taught. */
export const isWhole = (detail: RolloutDetail | undefined) =>
  detail?.row.outcome != null && (detail.drawn === "evaluation" || detail.context !== null) && (detail.drawn !== "train" || isTaught(detail.tokens));

export const useProblem = (run: string, problem: string) =>
  useQuery({
    queryKey: ["problem", run, problem],
    queryFn: () => told(api.GET("/v1/runs/{run}/problems/{problem}", { params: { path: { run, problem } } })),
    staleTime: 10_000,
  });

export const useServices = () =>
  useQuery({ queryKey: ["services"], queryFn: () => told(api.GET("/v1/services", {})), refetchInterval: 5000 });

export const useReady = () =>
  useQuery({ queryKey: ["readyz"], queryFn: () => told(api.GET("/readyz", {})), refetchInterval: 5000 });
