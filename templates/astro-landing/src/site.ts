// Checks the page's text. If a field is missing, empty or misspelt, the build fails and names the field.
import { z } from 'astro/zod';
import text from './content/site.json';

const words = z.string().trim().min(1);
const href = z.string().regex(/^(#|\/|https?:\/\/|mailto:|tel:)/);
const card = z.strictObject({ title: words, text: words });
const question = z.strictObject({ question: words, answer: words });
const section = <T extends z.ZodTypeAny>(item: T) =>
  z.strictObject({ title: words, items: z.array(item).min(1) });

const shape = z.strictObject({
  language: z.string().regex(/^[a-z]{2,3}(-[A-Za-z0-9]+)*$/),
  name: words,
  title: words,
  description: words,
  eyebrow: words.optional(),
  headline: words,
  lead: words,
  action: z.strictObject({ label: words, href }).optional(),
  features: section(card).optional(),
  steps: section(card).optional(),
  questions: section(question).optional(),
  footer: words,
});

const read = shape.safeParse(text);
if (!read.success) {
  const problems = read.error.issues.map(({ path, message }) => [...path, message].join(': '));
  throw new Error(`src/content/site.json is not valid. ${problems.join('; ')}`);
}

export const site = read.data;
