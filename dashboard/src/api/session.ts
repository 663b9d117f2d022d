// Whether this browser is signed in: the gateway says so by refusing with 401.
import { useSyncExternalStore } from "react";
import { forgetDrafts } from "../memory/draft";
import { api, Refusal, told } from "./client";

let signedOut = false;
const listeners = new Set<() => void>();

function set(value: boolean) {
  signedOut = value;
  for (const each of listeners) each();
}

/** Note a refusal: 401 means that the session is over. */
export function noticed(error: unknown) {
  if (error instanceof Refusal && error.status === 401) set(true);
}

export function useSignedOut(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => signedOut,
  );
}

export async function signIn(how: { token: string } | { code: string }): Promise<void> {
  await told(api.POST("/v1/session", { body: how as { token?: string; code?: string } }));
  set(false);
}

export async function signOut(): Promise<void> {
  await told(api.DELETE("/v1/session", {}));
  forgetDrafts();
  set(true);
}
