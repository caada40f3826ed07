// Twilio's Node package as a team would use it: only the base URL and the key are Callgate's.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import twilio from "twilio";

const { GATEWAY_URL, ACCOUNT_SID, API_KEY } = process.env;
const client = twilio(ACCOUNT_SID, API_KEY, { accountSid: ACCOUNT_SID });
client.api.baseUrl = GATEWAY_URL;

const BASIC = { to: "sip:kate@example.com", from: "Jack", twiml: "<Response/>" };
const HOOK = "http://www.example.com/hook";

async function liveCall() {
  const { sid } = await client.calls.create({ ...BASIC, to: "sip:forever@example.com" });
  while ((await client.calls(sid).fetch()).status !== "in-progress") await sleep(20);
  return client.calls(sid);
}

test("a call is created with parameters of every kind, fetched, ended and deleted", async () => {
  const made = await client.calls.create({
    ...BASIC,
    to: "sip:forever@example.com?X-order=4711",
    record: true,
    timeout: 30,
    statusCallbackEvent: ["initiated", "ringing", "answered", "completed"],
    sipAuthUsername: "jack",
    sipAuthPassword: "secret & more",
  });
  assert.match(made.sid, /^CA[0-9a-f]{32}$/);
  assert.deepEqual([made.status, made.direction, made.accountSid], ["queued", "outbound-api", ACCOUNT_SID]);
  assert.equal(Object.keys(made.subresourceUris).length, 9);
  const ended = await client.calls(made.sid).update({ status: "completed" });
  assert.equal(ended.sid, made.sid);
  assert.equal((await client.calls(made.sid).fetch()).to, "sip:forever@example.com?X-order=4711");
  assert.equal(await client.calls(made.sid).remove(), true);
  await assert.rejects(client.calls(made.sid).fetch(), { status: 404, code: 20404 });
});

test("the list is followed over its pages, with filters", async () => {
  const to = `sip:${randomUUID()}@example.com`;
  const made = [];
  for (let n = 0; n < 5; n++) made.unshift((await client.calls.create({ ...BASIC, to })).sid);
  const sids = (calls) => calls.map((call) => call.sid);
  assert.deepEqual(sids(await client.calls.list({ to, pageSize: 2 })), made);
  const first = await client.calls.page({ to, pageSize: 2 });
  const second = await first.nextPage();
  assert.deepEqual(sids(second.instances), made.slice(2, 4));
  assert.deepEqual(sids((await second.previousPage()).instances), made.slice(0, 2));
  const seen = [];
  await new Promise((resolve) =>
    client.calls.each({ to, pageSize: 2, callback: (call) => seen.push(call.sid), done: resolve }),
  );
  assert.deepEqual(seen, made);
});

test("what people pass is taken: booleans and events as they come, numbers as they are written, a main account as the user", async () => {
  const main = twilio(`AC${"e".repeat(32)}`, API_KEY, { accountSid: ACCOUNT_SID });
  main.api.baseUrl = GATEWAY_URL;
  const made = await main.calls.create({
    ...BASIC,
    to: "(415) 555-0100",
    from: "+1 415 555 0199",
    asyncAmd: "True",
    machineDetection: "enable",
    statusCallbackEvent: ["initiated", "no-answer", "busy", "initiated"],
  });
  assert.deepEqual([made.to, made.from], ["+14155550100", "+14155550199"]);
  for (const to of ["+14155550100", "14155550100", "415-555-0100"])
    assert.deepEqual((await main.calls.list({ to })).map((call) => call.sid), [made.sid]);
  assert.deepEqual(await main.calls.list({ parentCallSid: made.sid }), []);
  await assert.rejects(main.calls.page({ pageNumber: 1 }), { status: 400, code: 20001 });
});

test("a refusal carries Twilio's code", async () => {
  await assert.rejects(client.calls.create({ ...BASIC, from: "Jack Smith" }), { status: 400, code: 21212 });
  const stranger = twilio(ACCOUNT_SID, "wrong");
  stranger.api.baseUrl = GATEWAY_URL;
  await assert.rejects(stranger.calls.list({ limit: 1 }), { status: 401, code: 20003 });
});

test("recordings are started, listed over pages, changed and deleted", async () => {
  const call = await liveCall();
  const made = [];
  for (let n = 0; n < 3; n++) made.unshift((await call.recordings.create({ recordingChannels: "dual" })).sid);
  const listed = await call.recordings.list({ pageSize: 1, dateCreatedAfter: new Date(Date.now() - 864e5) });
  assert.deepEqual(listed.map((recording) => recording.sid), made);
  assert.equal((await call.recordings(made[0]).update({ status: "paused" })).status, "paused");
  assert.equal((await call.recordings(made[0]).fetch()).channels, 2);
  const sound = await fetch(`${GATEWAY_URL}${listed[0].uri.replace(".json", ".mp3")}`, {
    headers: { Authorization: `Basic ${btoa(`${ACCOUNT_SID}:${API_KEY}`)}` },
  });
  assert.equal(sound.status, 200);
  assert.ok((await sound.arrayBuffer()).byteLength > 1000);
  assert.equal(await call.recordings(made[0]).remove(), true);
  await assert.rejects(call.recordings(made[0]).fetch(), { status: 404, code: 20404 });
});

test("every other subresource", async () => {
  const call = await liveCall();
  assert.equal((await call.events.list()).length, 1);
  assert.deepEqual(await call.notifications.list({ log: 1 }), []);
  await assert.rejects(call.notifications(`NO${"0".repeat(32)}`).fetch(), { status: 404, code: 20404 });
  const payment = await call.payments.create({ idempotencyKey: "one", statusCallback: HOOK, chargeAmount: 9.99 });
  const changed = { idempotencyKey: "two", statusCallback: HOOK, capture: "security-code" };
  assert.equal((await call.payments(payment.sid).update(changed)).sid, payment.sid);
  for (const [forks, parameters] of [
    [call.streams, { url: "wss://www.example.com/media", "parameter1.name": "order", "parameter1.value": "4711" }],
    [call.siprec, { connectorName: "recorder" }],
    [call.transcriptions, { partialResults: true }],
  ]) {
    const fork = await forks.create({ name: "fork", ...parameters });
    assert.deepEqual([fork.name, fork.status], ["fork", "in-progress"]);
    assert.equal((await forks(fork.sid).update({ status: "stopped" })).status, "stopped");
  }
  assert.match((await call.userDefinedMessages.create({ content: "{}" })).sid, /^KX/);
  const subscription = await call.userDefinedMessageSubscriptions.create({ callback: HOOK });
  assert.equal(await call.userDefinedMessageSubscriptions(subscription.sid).remove(), true);
  await call.update({ status: "completed" });
  await assert.rejects(call.recordings.create(), { status: 400, code: 21220 });
});

// The package keeps connections open for a while.
after(() => client.httpClient.agent?.destroy?.());
