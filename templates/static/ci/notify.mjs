// {{#registry}}
// Reports the end of a pipeline to rdev: POST $RDEV_HOOK_URL, signed with $RDEV_HOOK_SECRET.
import { createHmac, randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';

const env = process.env;
if (!env.RDEV_HOOK_URL) {
  console.log('RDEV_HOOK_URL is not set: not reporting to rdev');
  process.exit(0);
}
if (!env.RDEV_HOOK_SECRET) {
  console.error('RDEV_HOOK_SECRET is not set: rdev would refuse the message');
  process.exit(1);
}

const body = JSON.stringify({
  repository: env.CI_REPO,
  forge_id: Number(env.CI_REPO_REMOTE_ID),
  number: Number(env.CI_PIPELINE_NUMBER),
  status: env.PIPELINE_STATUS,
  commit: env.CI_COMMIT_SHA,
  branch: env.CI_COMMIT_BRANCH,
  url: env.CI_PIPELINE_URL,
  finished_at: Math.floor(Date.now() / 1000),
});
const headers = {
  'Content-Type': 'application/json',
  // The same id at each try, so that rdev recognises a repeated message.
  'X-Rdev-Delivery': randomUUID(),
  'X-Rdev-Signature': `sha256=${createHmac('sha256', env.RDEV_HOOK_SECRET).update(body).digest('hex')}`,
};

async function report() {
  const options = { method: 'POST', headers, body, redirect: 'manual', signal: AbortSignal.timeout(10_000) };
  const answer = await fetch(env.RDEV_HOOK_URL, options);
  if (answer.ok) return null;
  return `answered with ${answer.status}`;
}

for (const pause of [1000, 5000, null]) {
  const problem = await report().catch((error) => error.cause?.message ?? error.message);
  if (problem === null) {
    console.log(`reported to rdev: ${env.PIPELINE_STATUS}`);
    process.exit(0);
  }
  console.error(`rdev ${problem}`);
  if (pause !== null) await wait(pause);
}
process.exit(1);
// {{/registry}}
