// Makes the tables of better-auth in the database that PGHOST, PGPORT, PGUSER and PGDATABASE name, by its own migrator,
// and users by its own functions.
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { admin, anonymous, phoneNumber, twoFactor } from "better-auth/plugins";
import pg from "pg";

const auth = betterAuth({
  secret: "a secret for the tests, of enough characters",
  baseURL: "http://localhost:3000",
  logger: { disabled: true },
  telemetry: { enabled: false },
  database: new pg.Pool(),
  emailAndPassword: { enabled: true },
  plugins: [anonymous(), phoneNumber(), admin(), twoFactor()],
});
await (await getMigrations(auth.options)).runMigrations();
const { internalAdapter } = await auth.$context;

const signUp = (name, password) =>
  auth.api.signUpEmail({ body: { name, email: `${name.toLowerCase()}@example.org`, password } });

await signUp("Ada", "correct horse \u00e4");
await internalAdapter.updateUserByEmail("ada@example.org", {
  emailVerified: true,
  image: "https://example.org/ada.png",
  phoneNumber: "+4930123456",
  phoneNumberVerified: true,
});
await signUp("Bob", "battery staple");
const { user: eve } = await internalAdapter.createOAuthUser(
  { name: "Eve", email: "eve@example.org", emailVerified: true, banned: true },
  { providerId: "google", accountId: "g-1" },
);
await auth.api.signInAnonymous();
const { user: fay } = await signUp("Fay", "fay's password");
await (await auth.$context).adapter.create({
  model: "twoFactor",
  data: { userId: fay.id, secret: "x", backupCodes: "x" },
});
console.log(eve.id);
process.exit(0);
