// A real OpenID Connect provider on loopback: `node provider.js REDIRECT_URI`. Prints its issuer when it listens.
// The account is the `login_hint` of the request; nobody types a password. Accounts: NAME is in the groups of GROUPS.
import { createServer } from "node:http";
import { once } from "node:events";
import Provider, { interactionPolicy } from "oidc-provider";

const GROUPS = { kate: ["voice-operators"], jack: ["support", "staff"], mallory: ["staff"] };
const [redirectUri] = process.argv.slice(2);

const server = createServer();
server.listen(0, "127.0.0.1");
await once(server, "listening");
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [{ client_id: "callgate", client_secret: "a secret: with=signs&more%", redirect_uris: [redirectUri] }],
  pkce: { required: () => true },
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
  cookies: { keys: ["only for tests"] },
  features: { devInteractions: { enabled: false } },
  interactions: { policy: interactionPolicy.base(), url: (_, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: id !== "mallory", groups: GROUPS[id] ?? [] }),
  }),
});

const answer = provider.callback();
server.on("request", async (request, response) => {
  if (!request.url.startsWith("/interaction/")) return answer(request, response);
  const { params, prompt, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    return provider.interactionFinished(request, response, { login: { accountId: params.login_hint ?? "kate" } });
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: params.login_hint ?? "kate", clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
});
console.log(issuer);
