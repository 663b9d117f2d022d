// How much likelier a teacher holds a token than the policy that drew it.
import type { RolloutDetail } from "../api/client";

export type Token = NonNullable<RolloutDetail["tokens"]>[number];

/** In nats: above 0 the student is pulled towards the token, below it away; 0 where no teacher taught it. */
export const gap = (token: Token): number => (token.teacher_logprob == null ? 0 : token.teacher_logprob - token.logprob);

export const isTaught = (tokens: readonly Token[] | null | undefined): boolean => !!tokens?.some((token) => token.teacher_logprob != null);
