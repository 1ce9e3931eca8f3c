// What guests bring along, made by the libraries that others use: jose for keys of devices, altcha-lib for proof of
// work. It reads a command per line, a JSON object, and prints the answer as one line of JSON:
//
//   {"do": "key", "alg": …}                                makes a key; answers with the public JWK, its thumbprint for kid
//   {"do": "sign", "kid": …, "header": {…}, "payload": {…}}   a JWS in compact form; the header gets kid and alg
//   {"do": "solve", "challenge": {…}}                      the solution of an ALTCHA challenge, by altcha-lib/v1
//   {"do": "solve_as_widget", "challenge": {…}}            the same as versions 2 and 3 of the widget do it, with the
//                                                          solver for the second form of the protocol
import { createInterface } from 'node:readline';
import { solveChallenge as solveFirstForm } from 'altcha-lib/v1';
import { solveChallenge } from 'altcha-lib';
import { deriveKey } from 'altcha-lib/algorithms/sha';
import { CompactSign, calculateJwkThumbprint, exportJWK, generateKeyPair } from 'jose';

const keys = new Map();

async function makeKey({ alg }) {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = await exportJWK(publicKey);
  const kid = await calculateJwkThumbprint(jwk);
  keys.set(kid, { alg, privateKey });
  return { ...jwk, alg, kid };
}

function sign({ kid, header, payload }) {
  const { alg, privateKey } = keys.get(kid);
  return new CompactSign(new TextEncoder().encode(JSON.stringify(payload)))
    .setProtectedHeader({ kid, alg, ...header })
    .sign(privateKey);
}

function solution({ maxnumber, ...challenge }, number) {
  return btoa(JSON.stringify({ ...challenge, number, took: 12.5 }));
}

async function solve({ challenge }) {
  const { challenge: hash, salt, algorithm, maxnumber } = challenge;
  const { number } = await solveFirstForm(hash, salt, algorithm, maxnumber).promise;
  return solution(challenge, number);
}

async function solveAsWidget({ challenge }) {
  const parameters = {
    algorithm: challenge.algorithm,
    cost: 1,
    keyLength: 32,
    keyPrefix: challenge.challenge,
    nonce: Buffer.from(challenge.salt).toString('hex'),
    salt: '',
  };
  const { counter } = await solveChallenge({ challenge: { parameters }, counterMode: 'string', deriveKey });
  return solution(challenge, counter);
}

const commands = { key: makeKey, sign, solve, solve_as_widget: solveAsWidget };
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  console.log(JSON.stringify(await commands[command.do](command)));
}
