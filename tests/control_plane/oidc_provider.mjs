// A real OpenID provider for the tests: `node oidc_provider.mjs`, told by TEST_PROVIDER (JSON: the folder of its modules, its key
// and certificate, its accounts' file, the program's client id). It listens on loopback, prints its port, and lives until stdin ends. A line on stdin: it begins anew, with the keys
// that its file holds then, and prints its port again.
// Accounts are read anew at each login, so that a test takes a group away as an administrator would.
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const told = JSON.parse(process.env.TEST_PROVIDER);
const { default: Provider } = await import(pathToFileURL(`${told.modules}/node_modules/oidc-provider/lib/index.js`).href);

const account = (id) => JSON.parse(readFileSync(told.accounts, "utf8"))[id];

const server = createServer({ key: readFileSync(told.key), cert: readFileSync(told.certificate) });
let answer;

function serve() {
  const provider = new Provider(`https://127.0.0.1:${server.address().port}`, {
    clients: [
      {
        client_id: told.client,
        application_type: "native",
        token_endpoint_auth_method: "none",
        redirect_uris: ["http://127.0.0.1/callback"],
        response_types: ["code"],
        grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
        id_token_signed_response_alg: "ES256",
        ...told.back_channel,
      },
    ],
    jwks: JSON.parse(readFileSync(told.jwks, "utf8")),
    cookies: { keys: ["only a test"] },
    // Claims belong into the ID token: the control plane gets no access token to ask for more.
    conformIdTokenClaims: false,
    claims: { openid: ["sub", "sid"], profile: ["name", "preferred_username"], email: ["email", "email_verified"], groups: ["groups"] },
    features: {
      deviceFlow: { enabled: true },
      backchannelLogout: { enabled: true },
      devInteractions: { enabled: true },
    },
    pkce: { required: () => true },
    // Its own dispatcher posts to no loopback address, where the control plane under test listens.
    fetch: (url, options) => fetch(url, { ...options, dispatcher: undefined }),
    findAccount: (_, id) => account(id) && { accountId: id, claims: () => ({ sub: id, ...account(id) }) },
  });
  provider.on("backchannel.error", (_, error) => console.error(error));
  answer = provider.callback();
  process.stdout.write(`${server.address().port}\n`);
}

server.on("request", (request, response) => answer(request, response));
server.listen(told.port, "127.0.0.1", serve);
process.stdin.on("data", serve).on("end", () => process.exit(0));
