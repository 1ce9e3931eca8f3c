// An OpenID provider on a free port of the loopback address, for the integration tests. It prints its issuer as the
// first line; then it reads a command per line, a JSON object, and prints the answer as one line of JSON:
//
//   {"do": "token", "client": …, "nonce": …, "claims": {"sub": …}}   signs that user in by the authorization code flow
//                                                                    and answers with the ID token
//   {"do": "rotate"}     makes new keys; those before stay published
//   {"do": "forget"}     publishes the newest keys only
//   {"do": "requests"}   the paths that were asked for since the last time
//
// Its clients are called by the algorithm of their ID tokens: RS256, ES256, EdDSA.
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const redirectUri = 'https://app.example/callback';
const users = new Map();
const server = createServer((request, response) => {
  requests.push(request.url);
  serve(request, response);
});
let requests = [];
let keys = [];
let generation = 0;
let issuer;
let serve;

function key(alg, type, options, use = 'sig') {
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' });
  return { ...jwk, alg, use, kid: `${alg}-${generation}` };
}

function newKeys() {
  generation += 1;
  return [
    key('RS256', 'rsa', { modulusLength: 2048 }),
    key('ES256', 'ec', { namedCurve: 'P-256' }),
    key('EdDSA', 'ed25519', {}),
    // Beside them, as providers do, what no ID token here is signed with.
    key('ES512', 'ec', { namedCurve: 'P-521' }),
    key('RSA-OAEP', 'rsa', { modulusLength: 2048 }, 'enc'),
  ];
}

function start() {
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: ['RS256', 'ES256', 'EdDSA'].map((alg) => ({
      client_id: alg,
      client_secret: 'secret-of-the-client',
      redirect_uris: [redirectUri],
      id_token_signed_response_alg: alg,
    })),
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    features: { encryption: { enabled: true } },
    // Into the ID token, as most providers do.
    conformIdTokenClaims: false,
    cookies: { keys: [randomBytes(16).toString('hex')] },
    findAccount: (_, sub) => ({ accountId: sub, claims: () => users.get(sub) }),
  });
  serve = provider.callback();
}

// A browser's part: follows redirects with cookies, up to the one to the application.
async function signIn({ client, nonce, claims }) {
  users.set(claims.sub, claims);
  const verifier = randomBytes(32).toString('base64url');
  const parameters = new URLSearchParams({
    client_id: client,
    response_type: 'code',
    scope: 'openid email profile',
    redirect_uri: redirectUri,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    ...(nonce === undefined ? {} : { nonce }),
  });
  const cookies = new Map();
  let url = `${issuer}/auth?${parameters}`;
  let form;
  while (!url.startsWith(redirectUri)) {
    const response = await fetch(url, {
      redirect: 'manual',
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
      ...(form ? { method: 'POST', body: new URLSearchParams(form) } : {}),
    });
    for (const cookie of response.headers.getSetCookie()) {
      const [, name, value] = cookie.match(/^([^=]+)=([^;]*)/);
      if (value) cookies.set(name, value); else cookies.delete(name);
    }
    form = undefined;
    if (response.status === 200) {
      const page = await response.text();
      form = page.includes('value="login"') ? { prompt: 'login', login: claims.sub, password: 'any' } : { prompt: 'consent' };
      url = new URL(page.match(/action="([^"]+)"/)[1], url).href;
    } else if (response.status === 302 || response.status === 303) {
      url = new URL(response.headers.get('location'), url).href;
    } else {
      throw new Error(`${url}: status ${response.status}: ${await response.text()}`);
    }
  }
  const answer = await fetch(`${issuer}/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(`${client}:secret-of-the-client`).toString('base64')}` },
    body: new URLSearchParams({
      grant_type: 'authorization_code',
      code: new URL(url).searchParams.get('code'),
      redirect_uri: redirectUri,
      code_verifier: verifier,
    }),
  });
  return (await answer.json()).id_token;
}

const commands = {
  token: signIn,
  rotate() { keys = [...newKeys(), ...keys]; start(); },
  forget() { keys = keys.slice(0, 5); start(); },
  requests() { const seen = requests; requests = []; return seen; },
};

// What the library has to say to whoever would run it in earnest.
console.warn = () => {};
console.info = () => {};
server.listen(0, '127.0.0.1', async () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  commands.rotate();
  console.log(issuer);
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    console.log(JSON.stringify((await commands[command.do](command)) ?? null));
  }
  process.exit();
});
