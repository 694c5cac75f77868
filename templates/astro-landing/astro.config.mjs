import { defineConfig } from 'astro/config';

export default defineConfig({
  // {{#zone}}
  site: 'https://{{project}}.{{zone}}',
  // {{/zone}}
  devToolbar: { enabled: false },
});
