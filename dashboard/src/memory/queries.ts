// A bank: what is asked of it, and what people do to it. A change names the version that was seen (If-Match).
import { notifications } from "@mantine/notifications";
import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { api, Refusal, told, type Item } from "../api/client";

export type Level = Item["level"];
export type ListFilter = { level: Level; status: Item["status"] | "any"; protected?: boolean; problem_id?: string; sort: "newest" | "oldest" | "text"; q?: string };

export const useItems = (run: string, filter: ListFilter) =>
  useInfiniteQuery({
    queryKey: ["run", run, "memory", "list", filter],
    queryFn: ({ pageParam }) => told(api.GET("/v1/runs/{run}/memory", { params: { path: { run }, query: { ...filter, after: pageParam, limit: 100 } } })),
    initialPageParam: "",
    getNextPageParam: (page) => page.next,
    placeholderData: keepPreviousData,
    retry: false,
  });

export const useSearch = (run: string, level: Level, q: string, mode: "hybrid" | "text" | "vector", on: boolean) =>
  useQuery({
    queryKey: ["run", run, "memory", "search", level, q, mode],
    queryFn: () => told(api.GET("/v1/runs/{run}/bank/search", { params: { path: { run }, query: { q, level, mode, limit: 50 } } })),
    enabled: on && q.trim().length > 0,
    placeholderData: keepPreviousData,
    retry: false,
  });

export const useBank = (run: string) =>
  useQuery({ queryKey: ["run", run, "memory", "bank"], queryFn: () => told(api.GET("/v1/runs/{run}/bank", { params: { path: { run } } })), retry: false });

const at = (run: string, item: string) => ({ params: { path: { run, item } } });

export const useItem = (run: string, item: string) =>
  useQuery({ queryKey: ["run", run, "memory", "item", item], queryFn: () => told(api.GET("/v1/runs/{run}/memory/{item}", at(run, item))) });
export const useProvenance = (run: string, item: string) =>
  useQuery({ queryKey: ["run", run, "memory", "item", item, "provenance"], queryFn: () => told(api.GET("/v1/runs/{run}/memory/{item}/provenance", at(run, item))) });
export const useUtility = (run: string, item: string) =>
  useQuery({ queryKey: ["run", run, "memory", "item", item, "utility"], queryFn: () => told(api.GET("/v1/runs/{run}/memory/{item}/utility", at(run, item))) });
export const useProposals = (run: string, status: "open" | "accepted" | "rejected") =>
  useInfiniteQuery({
    queryKey: ["run", run, "memory", "proposals", status],
    queryFn: ({ pageParam }) => told(api.GET("/v1/runs/{run}/bank/proposals", { params: { path: { run }, query: { status, after: pageParam, limit: 100 } } })),
    initialPageParam: "",
    getNextPageParam: (page) => page.next,
    retry: false,
  });

/** The header that names a version. */
export const seen = (version: number) => ({ "If-Match": `"${version}"` });

/** Something that a person does to a bank: what is shown is asked for again, a conflict is said as one. */
export function useAct<T>(run: string, does: (given: T) => Promise<unknown>, done: (given: T) => string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: does,
    onSuccess: (_, given) => notifications.show({ message: done(given) }),
    onError: (error) =>
      notifications.show({
        color: "orange", autoClose: 10_000,
        title: error instanceof Refusal && error.status === 412 ? "Somebody was faster: look at it anew, then do it again" : "Not done",
        message: error.message,
      }),
    onSettled: () => client.invalidateQueries({ queryKey: ["run", run, "memory"] }),
  });
}
