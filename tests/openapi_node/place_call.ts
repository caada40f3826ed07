// Places a call with openapi-fetch and the generated types; compiled and run by tests/docs/test_generated_clients.py.
import createClient from "openapi-fetch";
import type { components, paths } from "./callgate.js";

const client = createClient<paths>({
  baseUrl: process.env.GATEWAY_URL ?? "",
  headers: { Authorization: `Bearer ${process.env.API_KEY}` },
});
const params = { header: { "Idempotency-Key": "order-4711" } };
const body: components["schemas"]["CallRequest"] = {
  to: "sip:kate@example.com",
  from: "Jack",
  url: "http://www.example.com/sipdial.xml",
};
const created = await client.POST("/v1/calls", { params, body });
if (created.error) throw new Error(created.error.detail);
if (!("sid" in created.data)) throw new Error("the outcome is unknown");
const replayed = await client.POST("/v1/calls", { params, body });
const refused = await client.POST("/v1/calls", { body: { to: "kate", from: "Jack" } });
if (!refused.error) throw new Error("was not refused");
const page = await client.GET("/v1/calls", { params: { query: { execution: "started" } } });
const replay = await client.POST("/v1/deliveries/replay", { body: { since: "2026-11-28T00:00:00Z" } });
if (replayed.data?.id !== created.data.id || page.data?.calls[0]?.id !== created.data.id || replay.data?.replayed !== 0) {
  throw new Error("another call");
}
// The answer of a gateway that is stopped during the creation.
const stopped = createClient<paths>({
  baseUrl: "http://stopped",
  fetch: async () => new Response(process.env.UNKNOWN_OUTCOME, { status: 202 }),
});
const unknown = await stopped.POST("/v1/calls", { body });
if (!unknown.data || "sid" in unknown.data || unknown.data.execution !== "unknown") throw new Error("is not unknown");
const { execution, status, sid } = created.data;
console.log(JSON.stringify({ execution, status, sid, refused: refused.error.type }));
